"""Whether the people in an image are those it should show.

Every frame is cut into a fixed set of windows, all of which go through the face
tower. Windows are then assigned to subjects, one each, so that the sum of
similarities is largest. `identity` is the harmonic mean over subjects, so that
the others cannot make up for a missing one; `subjects`, `face_pool` and
`identity_triplet` are the forms of published systems.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models.vision import (
  dlib_face,
  encoders,
  iresnet,
  preprocess,
)
from jaxreward.numerics import largest, masked_mean
from jaxreward.rewards import references as files
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

MOST_WAYS = 100_000
Faces = Callable[[Params, Array], Array]


def ways(subjects: int, faces: int) -> Int[np.ndarray, "K S"]:
  """Every assignment of a distinct face to each subject, as face indices.

  Raises:
    UserError: fewer faces than subjects, or too many assignments to list.
  """
  if faces < subjects:
    raise UserError(
      f"identity: {subjects} subjects need as many windows, there are {faces};"
      " set windows higher"
    )
  count = int(np.prod(np.arange(faces - subjects + 1, faces + 1)))
  if count > MOST_WAYS:
    raise UserError(
      f"identity: {subjects} subjects in {faces} windows can be assigned in"
      f" {count} ways, more than {MOST_WAYS}; set windows or subjects lower"
    )
  table = list(itertools.permutations(range(faces), subjects))
  return np.array(table, np.int32).reshape(-1, subjects)


def assign(
  likeness: Float[ArrayLike, "*B S F"], known: Bool[ArrayLike, "*B S"]
) -> Float[Array, "*B S"]:
  """Similarity of each subject to its face under the best assignment.

  Args:
    likeness: of subject s to face f.
    known: subjects that exist; the others take a face and count 0.
  """
  likeness, known = jnp.asarray(likeness), jnp.asarray(known)
  table = ways(*likeness.shape[-2:])
  subject = np.arange(table.shape[1])
  masked = jnp.where(known[..., None], likeness, 0.0)
  sums = masked[..., subject, table].sum(-1)  # [*B, K]
  best = jnp.asarray(table)[jnp.argmax(sums, -1)]
  return jnp.take_along_axis(likeness, best[..., None], -1)[..., 0]


def harmonic_mean(
  x: Float[ArrayLike, "*B S"], known: Bool[ArrayLike, "*B S"]
) -> Float[Array, "*B"]:
  """Harmonic mean of the known values, clipped at 0.001 from below."""
  x, known = jnp.asarray(x), jnp.asarray(known)
  inverses = jnp.where(known, 1 / jnp.maximum(x, 1e-3), 0.0)
  count = known.sum(-1)
  return count / jnp.maximum(inverses.sum(-1), 1e-9)


def subject_score(
  likeness: Float[ArrayLike, "*B T S F"],
  known: Bool[ArrayLike, "*B S"],
  *,
  missing: float = 0.5,
  least: float = 0.3,
) -> Float[Array, "*B"]:
  """Mean over subjects of their similarity, less a penalty for those missing.

  R = mean_s c_s - missing mean_s [c_s < least], c_s the mean over frames of the
  similarity of s to the face that it is assigned.

  Args:
    likeness: of subject s to face f, in T frames.
    known: subjects that exist; without one the score is 0.
    missing: subtracted for all subjects missing, a share of it for some.
    least: similarity from which a subject counts as present.
  """
  likeness, known = jnp.asarray(likeness), jnp.asarray(known)
  present = jnp.broadcast_to(known[..., None, :], likeness.shape[:-1])
  mean = assign(likeness, present).mean(-2)
  return masked_mean(mean - missing * (mean < least), known, axis=-1)


def pooled(
  likeness: Float[ArrayLike, "*B S F"], known: Bool[ArrayLike, "*B S"], top: int
) -> Float[Array, "*B F"]:
  """Mean of the `top` largest similarities of each face to a pool; all if 0.

  A pool with fewer than `top` entries uses all of them.
  """
  known = jnp.asarray(known)[..., None]
  if not top:
    return masked_mean(likeness, known, axis=-2)
  rows = -jnp.sort(jnp.where(known, -jnp.asarray(likeness), jnp.inf), -2)
  return masked_mean(
    rows[..., :top, :], jnp.isfinite(rows[..., :top, :]), axis=-2
  )


def triplet(
  positive: Float[ArrayLike, "*B"],
  negative: Float[ArrayLike, "*B"] | float,
  margin: float = 1.0,
) -> Float[Array, "*B"]:
  """relu(d(a, p) - d(a, n) + margin) of cosines, d = 1 - cos."""
  return jax.nn.relu(jnp.asarray(negative) - positive + margin)


def window_corners(
  count: int, height: int, width: int
) -> list[tuple[int, int, int]]:
  """(top, left, side) of square windows in pixels.

  Their sides are the image's shorter side and, for `count` of 2 and more, 1/2,
  1/3, ... of it. Windows of one size cover the image, and each overlaps the
  next by half or more.
  """
  corners, shorter = [], min(height, width)
  for n in range(1, count + 1):
    side = max(shorter // n, 1)

    def starts(length: int, n: int = n, side: int = side) -> list[int]:
      steps = math.ceil(2 * (n * length - shorter) / shorter)
      return [(length - side) * i // max(steps, 1) for i in range(steps + 1)]

    corners += [(y, x, side) for y in starts(height) for x in starts(width)]
  return corners


def face_pool_of(
  faces: Faces,
  params: Params,
  images: Float[Array, "B H W 3"],
  windows: int,
  side: int,
) -> Float[Array, "B F E"]:
  """Unit features of every window of every image."""
  height, width = images.shape[1:3]
  crops = []
  for y, x, n in window_corners(windows, height, width):
    crop = images[:, y : y + n, x : x + n]
    crops.append(preprocess.resize(crop, (side, side), "linear"))
  stacked = jnp.stack(crops, 1)
  flat = stacked.reshape(-1, side, side, 3)
  features = encoders.unit(faces(params, 2 * flat - 1))
  return features.reshape(*stacked.shape[:2], -1)


def load_faces(
  weights: str,
  references: str = "",
  *,
  subjects: int = 2,
) -> Loaded:
  """The face tower and the subjects' faces.

  Args:
    weights: of an IResNet of any depth, as safetensors in insightface's layout;
      or face-api's face_recognition_model.bin, dlib's network.
    references: a folder; its lines name "faces", cropped and upright; see
      `references`. Empty where the prompts' sources show one face each.
    subjects: maximal number of faces in a line.
  """
  if dlib_face.is_dlib(weights):
    model, side = dlib_face.DlibFace(), dlib_face.SIDE
    params, rules = dlib_face.load(weights), dlib_face.SHARDING_RULES
  else:
    model, side = iresnet.net_of(weights), iresnet.SIDE
    params, rules = iresnet.load(weights, model), iresnet.SHARDING_RULES
  return Loaded(
    {"faces": _apply(model), "side": side},
    {"params": params},
    {"params": rules},
    files.images_of(references, "faces", side, subjects, square=True),
  )


def _apply(model: iresnet.IResNet | dlib_face.DlibFace) -> Faces:
  def faces(params: Params, x: Array) -> Array:
    features: jax.Array = model.apply({"params": params}, x)  # pyrefly: ignore
    return features

  return faces


def _faces_of(
  prompts: PromptBatch, reference, known, side: int
) -> tuple[Array, Array]:
  """The subjects' faces, or a center crop of the source as the only one."""
  if reference is None:
    reference, known = files.resolve(prompts, "source", reference, known)
    first = jnp.asarray(reference)[:, 0]
    reference = preprocess.fitted(first, (side, side))[:, None]
  return jnp.asarray(reference), jnp.asarray(known)


def _likeness(
  images, prompts, faces, params, side, reference, known, windows
) -> tuple[Array, Array, Array, Array]:
  """(similarities [P, G, T, S, F], pool [P, G, T, F, E], known, usable [P, G])."""
  images = jnp.asarray(images)
  reference, known = _faces_of(prompts, reference, known, side)
  p, g = images.shape[:2]
  usable = jnp.isfinite(images).all(tuple(range(2, images.ndim)))
  usable = usable & known.any(-1)[:, None]
  safe = jnp.where(jnp.isfinite(images), images, 0.0)
  flat = safe.reshape(-1, *images.shape[-3:])
  pool = face_pool_of(faces, params, flat, windows, side)
  pool = pool.reshape(p, g, -1, *pool.shape[1:])  # [P, G, frames, F, E]
  targets = _features(faces, params, reference)
  return jnp.einsum("pse,pgtfe->pgtsf", targets, pool), pool, known, usable


def _features(faces: Faces, params: Params, crops: ArrayLike) -> Array:
  """Unit features [P, S, E] of cropped faces [P, S, h, w, 3]."""
  crops = jnp.asarray(crops)
  rows = encoders.unit(
    faces(params, 2 * crops.reshape(-1, *crops.shape[2:]) - 1)
  )
  return rows.reshape(*crops.shape[:2], -1)


@declare(
  takes_frames=True,
  loads=load_faces,
  applies=files.has("source"),
)
def identity(
  images: Float[ArrayLike, "P G *F H W 3"],
  prompts: PromptBatch,
  *,
  faces: Faces,
  params: Params,
  side: int,
  reference: Float[ArrayLike, "P S h w 3"] | None = None,
  known: Bool[ArrayLike, "P S"] | None = None,
  windows: int = 2,
) -> dict[str, Float[Array, "P G"]]:
  """Harmonic mean over subjects of the cosine to their face, in [0, 1].

  With several frames, faces are assigned in each frame, and a subject's
  similarity is the mean over frames.

  Args:
    images: in [0, 1], or frames of clips; values that are not finite score NaN.
    prompts: P prompts.
    faces: the face tower.
    params: of the tower.
    side: of its faces, in pixels.
    reference: cropped faces of the subjects.
    known: subjects that exist; a prompt without one scores NaN.
    windows: 1 for squares as wide as the image's shorter side, 2 for squares
      of half that width too, and so on.
  """
  likeness, _, known, usable = _likeness(
    images, prompts, faces, params, side, reference, known, windows
  )
  present = jnp.broadcast_to(known[:, None, None], likeness.shape[:-1])
  likenesses = assign(likeness, present).mean(2)
  score = harmonic_mean(likenesses, present[:, :, 0])
  return {"identity": jnp.where(usable, score, jnp.nan)}


@declare(
  takes_frames=True,
  loads=load_faces,
  applies=files.has("source"),
)
def subjects(
  images: Float[ArrayLike, "P G *F H W 3"],
  prompts: PromptBatch,
  *,
  faces: Faces,
  params: Params,
  side: int,
  reference: Float[ArrayLike, "P S h w 3"] | None = None,
  known: Bool[ArrayLike, "P S"] | None = None,
  windows: int = 2,
  missing: float = 0.5,
  least: float = 0.3,
) -> dict[str, Float[Array, "P G"]]:
  """`subject_score` of the faces in an image or clip.

  ID-Composer, https://arxiv.org/abs/2511.00511 (unverified: the form, the penalty
  and its threshold; theirs for a subject drawn twice is not there).

  Args:
    images: see `identity`, as up to windows.
    prompts: see there.
    faces: see there.
    params: see there.
    side: see there.
    reference: see there.
    known: see there.
    windows: see there.
    missing: see `subject_score`.
    least: see there.
  """
  likeness, _, known, usable = _likeness(
    images, prompts, faces, params, side, reference, known, windows
  )
  known = jnp.broadcast_to(known[:, None], (*usable.shape, known.shape[-1]))
  score = subject_score(likeness, known, missing=missing, least=least)
  return {"subjects": jnp.where(usable, score, jnp.nan)}


@declare(
  takes_frames=True,
  loads=load_faces,
  applies=files.has("source"),
)
def face_pool(
  images: Float[ArrayLike, "P G *F H W 3"],
  prompts: PromptBatch,
  *,
  faces: Faces,
  params: Params,
  side: int,
  reference: Float[ArrayLike, "P S h w 3"] | None = None,
  known: Bool[ArrayLike, "P S"] | None = None,
  windows: int = 2,
  top: int = 0,
) -> dict[str, Float[Array, "P G"]]:
  """Mean over frames of the similarity of a person to a pool of their faces.

  r = mean_f max_w mean of the `top` largest cos(phi(x_fw), F_j), w the windows of
  frame f: the pool has one person from several sides, such as the faces of a real
  clip, and no face of it is meant more than another.
  IPRO, https://arxiv.org/abs/2510.14255 (unverified: mean, largest or some; frames
  without a face are left out there, and here the best window is the face).

  Args:
    images: see `identity`, as up to windows.
    prompts: see there.
    faces: see there.
    params: see there.
    side: see there.
    reference: the pool.
    known: entries of it that exist.
    windows: see there.
    top: entries that count, the most similar ones; 0 for all.
  """
  if top < 0:
    raise UserError(f"face_pool.top={top}: it must be 0 or above")
  likeness, _, known, usable = _likeness(
    images, prompts, faces, params, side, reference, known, windows
  )
  present = jnp.broadcast_to(known[:, None, None], likeness.shape[:-1])
  score = largest(pooled(likeness, present, top), -1).mean(-1)
  return {"face_pool": jnp.where(usable, score, jnp.nan)}


def load_triplet(
  weights: str, references: str = "", *, subjects: int = 4
) -> Loaded:
  """The face tower, a subject's faces and those of others.

  Args:
    weights: see `load_faces`.
    references: a folder; its lines name "faces", of the subject, and "others",
      all cropped and upright; see `references`.
    subjects: maximal number of either in a line.

  Raises:
    UserError: no folder is named.
  """
  if not references:
    raise UserError(
      'references="": name a folder whose references.jsonl has "faces" and'
      ' "others"'
    )
  tower = load_faces(weights, references, subjects=subjects)
  side = tower.static["side"]
  others: Any = files.images_of(
    references, "others", side, subjects, square=True
  )
  subject: Any = tower.prepare

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    more = others(texts)
    return {
      **subject(texts), "others": more["reference"], "others_known": more["known"]
    }  # fmt: skip

  return dataclasses.replace(tower, prepare=prepare)


@declare(takes_frames=True, loads=load_triplet)
def identity_triplet(
  images: Float[ArrayLike, "P G *F H W 3"],
  prompts: PromptBatch,
  *,
  faces: Faces,
  params: Params,
  side: int,
  reference: Float[ArrayLike, "P S h w 3"],
  known: Bool[ArrayLike, "P S"],
  others: Float[ArrayLike, "P N h w 3"],
  others_known: Bool[ArrayLike, "P N"],
  windows: int = 1,
  margin: float = 1.0,
) -> dict[str, Float[Array, "P G"]]:
  """Minus the triplet loss of an image between a subject and others.

  -relu(d(a, p) - d(a, n) + margin), d = 1 - cos, means over the faces of the
  subject and of the others; a the window most like the subject. An image that is
  far enough from the others is pulled no further, which keeps diversity.
  ID-Booth, https://arxiv.org/abs/2504.07392, margin 1, where n is an image of the
  class that the model drew before.

  Args:
    images: see `identity`, as up to known.
    prompts: see there.
    faces: see there.
    params: see there.
    side: see there.
    reference: faces of the subject.
    known: which of them exist; a prompt without one scores NaN.
    others: faces of others.
    others_known: which of them exist; the same.
    windows: see there.
    margin: of the loss.
  """
  likeness, pool, known, usable = _likeness(
    images, prompts, faces, params, side, reference, known, windows
  )
  others_known = jnp.asarray(others_known)
  wrong = jnp.einsum("pse,pgtfe->pgtsf", _features(faces, params, others), pool)
  mean = lambda rows, there: pooled(
    rows, jnp.broadcast_to(there[:, None, None], rows.shape[:-1]), 0
  )
  positive, negative = mean(likeness, known), mean(wrong, others_known)
  best = jnp.argmax(positive, -1)[..., None]
  at_best = lambda rows: jnp.take_along_axis(rows, best, -1)[..., 0]
  loss = triplet(at_best(positive), at_best(negative), margin).mean(-1)
  usable = usable & others_known.any(-1)[:, None]
  return {"identity_triplet": jnp.where(usable, -loss, jnp.nan)}
