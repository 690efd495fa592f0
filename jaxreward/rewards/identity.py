"""Whether the people in a picture are those it should show.

Faces are looked for in a fixed set of windows of every frame, all of which go
through the face tower; the pool of what they show is then assigned to the
subjects, one window to a subject, so that the sum of likenesses is largest.
A picture is as good as the harmonic mean over its subjects: one that is
missing cannot be made up for by the others.
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
from jaxreward.models.vision import encoders, iresnet, preprocess
from jaxreward.rewards import references as files
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

MOST_WAYS = 100_000
Faces = Callable[[Params, Array], Array]


def ways(subjects: int, faces: int) -> Int[np.ndarray, "K S"]:
  """Every way to give each subject a face of its own, as face numbers.

  Raises:
    UserError: fewer faces than subjects, or more ways than can be listed.
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
  """Likeness of each subject to its face, in the best assignment of all.

  Args:
    likeness: of subject s to face f.
    known: subjects that there are; the others take a face and count nothing.
  """
  likeness, known = jnp.asarray(likeness), jnp.asarray(known)
  table = ways(*likeness.shape[-2:])
  subject = np.arange(table.shape[1])
  counted = jnp.where(known[..., None], likeness, 0.0)
  sums = counted[..., subject, table].sum(-1)  # [*B, K]
  best = jnp.asarray(table)[jnp.argmax(sums, -1)]
  return jnp.take_along_axis(likeness, best[..., None], -1)[..., 0]


def harmonic_mean(
  x: Float[ArrayLike, "*B S"], known: Bool[ArrayLike, "*B S"]
) -> Float[Array, "*B"]:
  """Harmonic mean of what is known; values at 0.001 or less count as that."""
  x, known = jnp.asarray(x), jnp.asarray(known)
  each = jnp.where(known, 1 / jnp.maximum(x, 1e-3), 0.0)
  count = known.sum(-1)
  return count / jnp.maximum(each.sum(-1), 1e-9)


def window_corners(
  count: int, height: int, width: int
) -> list[tuple[int, int, int]]:
  """(top, left, side) of windows in pixels, squares, as faces are aligned to.

  Windows of the picture's shorter side; for `count` 2 and more also of 1/2,
  1/3, ... of it. Together those of one size cover the picture, and each
  overlaps the next by half or more.
  """
  found, shorter = [], min(height, width)
  for n in range(1, count + 1):
    side = max(shorter // n, 1)

    def starts(length: int, n: int = n, side: int = side) -> list[int]:
      steps = math.ceil(2 * (n * length - shorter) / shorter)
      return [(length - side) * i // max(steps, 1) for i in range(steps + 1)]

    found += [(y, x, side) for y in starts(height) for x in starts(width)]
  return found


def face_pool(
  faces: Faces,
  params: Params,
  images: Float[Array, "B H W 3"],
  windows: int,
  side: int,
) -> Float[Array, "B F E"]:
  """Unit features of every window of every picture."""
  height, width = images.shape[1:3]
  crops = []
  for y, x, n in window_corners(windows, height, width):
    part = images[:, y : y + n, x : x + n]
    crops.append(preprocess.resize(part, (side, side), "linear"))
  stacked = jnp.stack(crops, 1)
  flat = stacked.reshape(-1, side, side, 3)
  found = encoders.unit(faces(params, 2 * flat - 1))
  return found.reshape(*stacked.shape[:2], -1)


def load_faces(
  weights: str,
  references: str = "",
  *,
  subjects: int = 2,
) -> Loaded:
  """The face tower and the faces to be found.

  Args:
    weights: of an IResNet of any depth, as safetensors in insightface's layout.
    references: a folder; its lines name "faces", cut out and upright; see
      `references`. Empty where the prompts' sources show one face each.
    subjects: most faces of a line.
  """
  model = iresnet.net_of(weights)
  return Loaded(
    {"faces": _apply(model)},
    {"params": iresnet.load(weights, model)},
    {"params": iresnet.SHARDING_RULES},
    files.pictures(references, "faces", iresnet.SIDE, subjects, square=True),
  )


def _apply(model: iresnet.IResNet) -> Faces:
  def faces(params: Params, x: Array) -> Array:
    found: jax.Array = model.apply({"params": params}, x)  # pyrefly: ignore
    return found

  return faces


def _faces_of(prompts: PromptBatch, reference, known) -> tuple[Array, Array]:
  """The subjects' faces, or the middle of the source as the face of one."""
  if reference is None:
    reference, known = files.given(prompts, "source", reference, known)
    side = (iresnet.SIDE, iresnet.SIDE)
    reference = preprocess.fitted(jnp.asarray(reference)[:, 0], side)[:, None]
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
  reference: Float[ArrayLike, "P S h w 3"] | None = None,
  known: Bool[ArrayLike, "P S"] | None = None,
  windows: int = 2,
) -> dict[str, Float[Array, "P G"]]:
  """Harmonic mean over subjects of the cosine to their face, in [0, 1].

  Of several frames, a subject's likeness to a window is the mean over frames
  of the best that the window's row of the pool shows.

  Args:
    images: in [0, 1], or frames of clips; what is not finite scores NaN.
    prompts: P prompts.
    faces: the face tower.
    params: of it.
    reference: faces of the subjects, cut out.
    known: subjects that there are; a prompt without one scores NaN.
    windows: 1 looks at squares as wide as the picture's shorter side, 2 at
      those half as wide too, and so on.
  """
  images = jnp.asarray(images)
  reference, known = _faces_of(prompts, reference, known)
  p, g = images.shape[:2]
  usable = jnp.isfinite(images).all(tuple(range(2, images.ndim)))
  usable = usable & known.any(-1)[:, None]
  safe = jnp.where(jnp.isfinite(images), images, 0.0)
  flat = safe.reshape(-1, *images.shape[-3:])
  side = jnp.shape(reference)[2]
  pool = face_pool(faces, params, flat, windows, side)
  pool = pool.reshape(p, g, -1, *pool.shape[1:])  # [P, G, frames, F, E]
  given = jnp.asarray(reference)
  wanted = encoders.unit(
    faces(params, 2 * given.reshape(-1, *given.shape[2:]) - 1)
  )
  wanted = wanted.reshape(*given.shape[:2], -1)
  likeness = jnp.einsum("pse,pgtfe->pgtsf", wanted, pool)
  seen = jnp.broadcast_to(known[:, None, None], likeness.shape[:-1])
  each = assign(likeness, seen).mean(2)
  score = harmonic_mean(each, seen[:, :, 0])
  return {"identity": jnp.where(usable, score, jnp.nan)}
