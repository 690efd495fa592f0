"""Tiled autoencoding: overlapping square tiles, one at a time, to bound memory.

Neighbouring tiles are blended linearly, as in the tiled autoencoders of
diffusers. Global layers, such as attention, see one tile, so the result is
close to that of the whole image but not equal.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.types import Array


def check(tile: int, overlap: int, factor: int) -> None:
  """Refuses tiles that do not fit the latents; a tile of 0 turns tiling off.

  Args:
    tile: side of a tile in pixels.
    overlap: pixels shared by neighbouring tiles.
    factor: pixels per latent pixel.

  Raises:
    UserError: the field and its valid values.
  """
  if not tile:
    return
  for name, value in (("tile", tile), ("overlap", overlap)):
    if value < 0 or value % factor:
      raise UserError(
        f"autoencoder.{name}={value} is not a multiple of {factor}, the pixels"
        " of a latent pixel"
      )
  if overlap >= tile:
    raise UserError(
      f"autoencoder.overlap={overlap} is not less than autoencoder.tile={tile}"
    )


def run(
  fn: Callable[[Array], Array],
  x: Float[Array, "*B h w C"],
  before: tuple[int, int],
  after: tuple[int, int],
) -> Float[Array, "*E H W D"]:
  """Applies a function of images tile by tile.

  Tiles start every `tile - overlap` pixels; those at the right and lower edges
  may be smaller. Overlaps are blended, first downwards, then rightwards. Only
  one tile is processed at a time, in the gradient too.

  Args:
    fn: images to images of another scale, for any side.
    x: images, or videos with their frames before the height.
    before: tile and overlap in pixels of x; a tile of 0 is the whole of x.
    after: the same in pixels of the result.
  """
  tile, overlap = before
  if not tile or max(x.shape[-3:-1]) <= tile:
    return fn(x)
  step, keep, fade = tile - overlap, after[0] - after[1], after[1]
  rows, columns = (range(0, n, step) for n in x.shape[-3:-1])
  inputs = {
    (i, j): x[..., i : i + tile, j : j + tile, :] for i in rows for j in columns
  }
  outputs: dict[tuple[int, int], Array] = {}
  for shape in dict.fromkeys(square.shape for square in inputs.values()):
    places = [
      place for place, square in inputs.items() if square.shape == shape
    ]
    squares = jnp.stack([inputs[place] for place in places])
    squares = jax.lax.map(jax.checkpoint(fn), squares)
    outputs |= dict(zip(places, squares, strict=True))
  lines = []
  for i in rows:
    line = []
    for j in columns:
      if i:
        outputs[i, j] = _fade(
          outputs[i - step, j], outputs[i, j], fade, axis=-3
        )
      if j:
        outputs[i, j] = _fade(
          outputs[i, j - step], outputs[i, j], fade, axis=-2
        )
      line.append(outputs[i, j][..., :keep, :keep, :])
    lines.append(jnp.concatenate(line, axis=-2))
  return jnp.concatenate(lines, axis=-3)


def _fade(a: Array, b: Array, extent: int, axis: int) -> Array:
  """b, with its first pixels blended with the last ones of a."""
  axis %= b.ndim
  extent = min(a.shape[axis], b.shape[axis], extent)
  if not extent:
    return b
  shape = [1] * b.ndim
  shape[axis] = extent
  weight = (jnp.arange(extent) / extent).reshape(shape)
  end = jax.lax.slice_in_dim(a, a.shape[axis] - extent, None, axis=axis)
  start = jax.lax.slice_in_dim(b, 0, extent, axis=axis)
  remainder = jax.lax.slice_in_dim(b, extent, None, axis=axis)
  return jnp.concatenate([end * (1 - weight) + start * weight, remainder], axis)
