"""Anti-aliased images of scenes, as pure functions of a key.

Objects lie in the cells of a jittered 3 x 3 grid, at most one per cell; size,
position, colour and the light background vary. Coverage of a pixel is
`clip(0.5 - signed distance, 0, 1)` with the distance in pixels.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.tasks.scenes import grammar
from jaxreward.types import Array, ArrayLike, PromptBatch

SIZE = 36
GRID = 3
CELL = SIZE // GRID
PALETTE = np.array(
  [
    [0.86, 0.12, 0.12],  # red
    [0.12, 0.66, 0.20],  # green
    [0.12, 0.26, 0.86],  # blue
    [0.94, 0.80, 0.08],  # yellow
    [0.58, 0.14, 0.72],  # purple
  ],
  np.float32,
)
RADIUS = (3.6, 4.4)  # pixels
JITTER = 0.8  # pixels, each way
COLOUR_JITTER = 0.05
BACKGROUND = (0.82, 0.96)
TINT = 0.03

# Areas for r = 1, and the offset of the centroid below the centre, in r.
UNIT_AREA = np.array([np.pi, 3.1329, 2.1953, 2.4624], np.float32)
CENTROID_Y = np.array([0.0, 0.0, 0.325, 0.0], np.float32)


@flax.struct.dataclass
class Scene:
  """Objects [B, N] of B scenes; N is `grammar.MAX_OBJECTS`.

  Attributes:
    present: bool [B, N].
    shape: int32 [B, N].
    colour: float32 [B, N, 3], RGB in [0, 1].
    centre: float32 [B, N, 2], (x, y) in pixels, y down.
    radius: float32 [B, N], pixels.
    background: float32 [B, 3].
  """

  present: Array
  shape: Array
  colour: Array
  centre: Array
  radius: Array
  background: Array


def _relation_cells() -> np.ndarray:
  """[5, K, 2] pairs of cells; row r holds the pairs in relation r."""
  rows = [[] for _ in grammar.RELATIONS]
  for a in range(GRID * GRID):
    for b in range(GRID * GRID):
      dy, dx = (b // GRID - a // GRID), (b % GRID - a % GRID)
      if a != b and abs(dy) <= abs(dx):
        rows[1 if dx > 0 else 2].append((a, b))
      if a != b and abs(dx) <= abs(dy):
        rows[3 if dy > 0 else 4].append((a, b))
  rows[0] = rows[1]  # never read
  return np.array(rows, np.int32)


_CELLS = _relation_cells()


def related_cells(relation: int) -> np.ndarray:
  """[K, 2] pairs of cells whose first is in the relation to the second."""
  return _CELLS[relation]


def signed_distance(
  shape_id: int,
  x: ArrayLike,
  y: ArrayLike,
  r: ArrayLike | float,
  xp: Any = jnp,
):
  """Signed distance in pixels to one of `grammar.SHAPES` of radius r.

  The square's and the cross's are exact inside and along the edges; corners
  are sharp, which at this size differs from the exact distance by less than a
  grey level. `xp` is jax.numpy, or numpy for images rendered on the host.
  """
  ax, ay = xp.abs(x), xp.abs(y)
  if shape_id == 0:
    return xp.sqrt(x * x + y * y + 1e-12) - r
  if shape_id == 1:
    return xp.maximum(ax, ay) - 0.885 * r
  if shape_id == 2:  # upright, bounding box centred: tip -0.975 r, base 0.975 r
    slope = xp.float32(1.1258 / 1.95)
    norm = xp.sqrt(1 + slope * slope)
    side = (ax - slope * (y + 0.975 * r)) / norm
    return xp.maximum(side, y - 0.975 * r)
  long, short = r, 0.38 * r
  bar_x = xp.maximum(ax - long, ay - short)
  bar_y = xp.maximum(ax - short, ay - long)
  return xp.minimum(bar_x, bar_y)


def coverage(
  shape: ArrayLike | int, x: ArrayLike, y: ArrayLike, r: ArrayLike | float
):
  """Soft coverage in [0, 1] of pixels at offset (x, y) from the centre."""
  distances = jnp.stack(
    [signed_distance(i, x, y, r) for i in range(len(grammar.SHAPES))]
  )
  distance = jnp.take_along_axis(
    distances, jnp.broadcast_to(shape, x.shape)[None], axis=0
  )[0]
  return jnp.clip(0.5 - distance, 0.0, 1.0)


def sample_scene(key: Array, items: ArrayLike, relation: ArrayLike) -> Scene:
  """Samples one scene that satisfies a prompt; vmap it over keys.

  Args:
    key: scalar key.
    items: int32 [2, 3], (count, colour, shape) rows, as in PromptBatch.
    relation: int32 scalar.

  Returns:
    A Scene without the batch axis.
  """
  n = grammar.MAX_OBJECTS
  items = jnp.asarray(items)
  k_cell, k_pair, k_colour, k_jitter, k_rgb, k_radius, k_back, k_tint = (
    jax.random.fold_in(key, i) for i in range(8)
  )
  slot = jnp.arange(n)
  owner = (slot >= items[0, 0]).astype(jnp.int32)
  present = slot < items[0, 0] + items[1, 0]
  free = jax.random.permutation(k_cell, GRID * GRID)[:n]
  pairs = jnp.asarray(_CELLS)[relation]
  pair = pairs[jax.random.randint(k_pair, (), 0, pairs.shape[0])]
  cells = jnp.where(
    (relation > 0) & (slot < 2), pair[jnp.minimum(slot, 1)], free
  )
  requested = items[owner, 1]
  random = jax.random.randint(k_colour, (n,), 0, len(grammar.COLOURS))
  colour = jnp.asarray(PALETTE)[jnp.where(requested < 0, random, requested)]
  colour += jax.random.uniform(
    k_rgb, (n, 3), minval=-COLOUR_JITTER, maxval=COLOUR_JITTER
  )
  centre = jnp.stack([cells % GRID, cells // GRID], -1) * CELL + (CELL - 1) / 2
  centre += jax.random.uniform(k_jitter, (n, 2), minval=-JITTER, maxval=JITTER)
  level = jax.random.uniform(
    k_back, (), minval=BACKGROUND[0], maxval=BACKGROUND[1]
  )
  tint = jax.random.uniform(k_tint, (3,), minval=-TINT, maxval=TINT)
  return Scene(
    present=present,
    shape=items[owner, 2],
    colour=jnp.clip(colour, 0.0, 1.0),
    centre=centre,
    radius=jax.random.uniform(
      k_radius, (n,), minval=RADIUS[0], maxval=RADIUS[1]
    ),
    background=jnp.clip(level + tint, 0.0, 1.0),
  )


def render(scene: Scene, size: int = SIZE) -> Array:
  """Renders scenes [B, N] as images float32 [B, size, size, 3] in [0, 1]."""
  axis = jnp.arange(size, dtype=jnp.float32)
  image = jnp.broadcast_to(
    scene.background[:, None, None],
    (*scene.background.shape[:1], size, size, 3),
  )
  for i in range(scene.present.shape[1]):
    x = axis[None, None, :] - scene.centre[:, i, 0, None, None]
    y = axis[None, :, None] - scene.centre[:, i, 1, None, None]
    x, y = jnp.broadcast_arrays(x, y)
    cover = coverage(
      scene.shape[:, i, None, None], x, y, scene.radius[:, i, None, None]
    )
    cover = jnp.where(scene.present[:, i, None, None], cover, 0.0)[..., None]
    image = image * (1 - cover) + cover * scene.colour[:, i, None, None]
  return image


def render_prompts(keys: Array, prompts: PromptBatch) -> Array:
  """Renders one image per prompt.

  Args:
    keys: typed keys [B].
    prompts: B prompts.

  Returns:
    float32 [B, SIZE, SIZE, 3] in [0, 1].
  """
  scenes = jax.vmap(sample_scene)(
    keys,
    jnp.asarray(prompts.extras.items),
    jnp.asarray(prompts.extras.relation),
  )
  return render(scenes)
