"""Whether the people in an image are those it should show.

Every frame is cut into a fixed set of windows, all of which go through the face
tower. Windows are then assigned to subjects, one each, so that the sum of
similarities is largest. The score is the harmonic mean over subjects, so that
the others cannot make up for a missing one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

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


def face_pool(
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
  images = jnp.asarray(images)
  reference, known = _faces_of(prompts, reference, known, side)
  p, g = images.shape[:2]
  usable = jnp.isfinite(images).all(tuple(range(2, images.ndim)))
  usable = usable & known.any(-1)[:, None]
  safe = jnp.where(jnp.isfinite(images), images, 0.0)
  flat = safe.reshape(-1, *images.shape[-3:])
  pool = face_pool(faces, params, flat, windows, side)
  pool = pool.reshape(p, g, -1, *pool.shape[1:])  # [P, G, frames, F, E]
  crops = jnp.asarray(reference)
  targets = encoders.unit(
    faces(params, 2 * crops.reshape(-1, *crops.shape[2:]) - 1)
  )
  targets = targets.reshape(*crops.shape[:2], -1)
  likeness = jnp.einsum("pse,pgtfe->pgtsf", targets, pool)
  present = jnp.broadcast_to(known[:, None, None], likeness.shape[:-1])
  likenesses = assign(likeness, present).mean(2)
  score = harmonic_mean(likenesses, present[:, :, 0])
  return {"identity": jnp.where(usable, score, jnp.nan)}
