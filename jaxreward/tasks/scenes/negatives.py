"""Images corrupted in the ways that reward hacking produces.

A reward model that has only seen clean images is easily fooled. Each corruption
is a function of a key; the detector judges the corrupted images.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.tasks.scenes import render
from jaxreward.types import Array

WAYS = (
  "noise",
  "texture",
  "blank",
  "blur",
  "extra",
  "missing",
  "dark",
  "ghost",
)


def _uniform(keys: Array, low: float, high: float, shape=()) -> Array:
  draw = lambda k: jax.random.uniform(k, shape, minval=low, maxval=high)
  return jax.vmap(draw)(keys)


def _texture(keys: Array, images: Array) -> Array:
  """A pattern with the period of the grid's cells, typical of patch models."""
  draw = lambda k: jax.random.normal(k, (render.CELL, render.CELL, 3))
  tile = jax.vmap(draw)(keys)
  repeats = (1, images.shape[1] // render.CELL, images.shape[2] // render.CELL)
  amount = _uniform(keys, 0.02, 0.2, (1, 1, 1))
  return images + amount * jnp.tile(tile, (*repeats, 1))


def _blur(images: Array) -> Array:
  for _ in range(3):
    pad = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    windows = [
      pad[:, i : i + images.shape[1], j : j + images.shape[2]]
      for i in range(3)
      for j in range(3)
    ]
    images = jnp.stack(windows).mean(0)
  return images


def _missing(keys: Array, images: Array) -> Array:
  """Clears every cell with probability one half."""
  cells = images.shape[1] // render.CELL
  wiped = _uniform(keys, 0.0, 1.0, (cells, cells)) < 0.5
  wiped = jnp.repeat(wiped, render.CELL, 1).repeat(render.CELL, 2)[..., None]
  return jnp.where(wiped, images[:, :1, :1], images)


def spoil(keys: Array, images: Array, others: Array, ways: Array) -> Array:
  """Corrupts every image in its own way.

  Args:
    keys: typed keys [B].
    images: float32 [B, H, W, 3] in [0, 1], H and W multiples of a cell.
    others: float32 [B, H, W, 3], images to take objects from.
    ways: int32 [B], index into `WAYS`.

  Returns:
    float32 [B, H, W, 3] in [0, 1].
  """
  shape = images.shape[1:]
  noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
  background = others[:, :1, :1]
  added = jnp.clip(others / jnp.maximum(background, 0.1), 0.0, 1.0)
  results = jnp.stack(
    [
      images + _uniform(keys, 0.02, 0.2, (1, 1, 1)) * noise,
      _texture(keys, images),
      jnp.broadcast_to(_uniform(keys, 0.0, 1.0, (1, 1, 3)), images.shape),
      _blur(images),
      images * added,
      _missing(keys, images),
      images * _uniform(keys, 0.3, 0.9, (1, 1, 3)),
      0.5 * (images + others),
    ]
  )
  images_of = jnp.take_along_axis(
    results, jnp.asarray(ways)[None, :, None, None, None], axis=0
  )[0]
  return jnp.clip(images_of, 0.0, 1.0)
