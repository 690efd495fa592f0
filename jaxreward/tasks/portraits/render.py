"""Portraits from their attributes, composed of layers in NumPy or JAX.

One person stands in the middle. Two stand left and right at the same scale,
each cropped to the middle half of the columns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxreward.tasks.portraits import atlas
from jaxreward.tasks.portraits import attributes as at
from jaxreward.types import Array, ArrayLike, PromptBatch

HALF = slice(at.SIDE // 4, 3 * at.SIDE // 4)  # columns of one of two people
FREE = -1


def colours(codes: tuple[str, ...]) -> np.ndarray:
  """float32 [N, 3] in [0, 1] of "#rrggbb"."""
  rows = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in codes]
  return np.array(rows, np.float32) / 255


BACKGROUNDS = colours(at.BACKGROUND_RGB)


def variants(rows: Int[ArrayLike, "*B A"]) -> list[Any]:
  """Per layer the index [*B] into the atlas."""
  indices = []
  for first, layer in zip(atlas.FIRST, at.LAYERS, strict=True):
    index = 0
    for i in layer.of:
      index = index * at.COUNTS[i] + rows[..., i]
    indices.append(first + index)
  return indices


def person(
  rows: Int[ArrayLike, "B A"], layers: Any
) -> tuple[ArrayLike, ArrayLike]:
  """(colour times alpha [B, S, W, 3], alpha [B, S, W, 1]) of people.

  Args:
    rows: attributes.
    layers: the atlas, or columns of it, [V, S, W, 4].
  """
  index, *others = variants(rows)
  colour, alpha = layers[index, ..., :3], layers[index, ..., 3:]
  for index in others:
    above = 1 - layers[index, ..., 3:]
    colour = layers[index, ..., :3] + above * colour
    alpha = layers[index, ..., 3:] + above * alpha
  return colour, alpha


def compose(
  rows: Int[ArrayLike, "B 2 A"], count: Int[ArrayLike, "B"], xp: Any = np
) -> Float[Any, "B S S 3"]:
  """Pictures in [0, 1].

  Args:
    rows: attributes of the first, or left, and of the second person.
    count: people in the picture, 1 or 2.
    xp: numpy or jax.numpy.
  """
  rows = xp.asarray(rows)
  layers = xp.asarray(atlas.premultiplied())
  back = xp.asarray(BACKGROUNDS)[rows[:, 0, at.BACKGROUND_AT]][:, None, None]
  over = lambda pair: pair[0] + (1 - pair[1]) * back
  alone = over(person(rows[:, 0], layers))
  two = [over(person(rows[:, i], layers[:, :, HALF])) for i in range(at.PEOPLE)]
  is_alone = xp.asarray(count)[:, None, None, None] == 1
  return xp.where(is_alone, alone, xp.concatenate(two, 2))


# Flat colours of a map of regions; the background is black.
REGIONS = {
  "skin": (1, 0, 0),
  "eyes": (1, 1, 0),
  "hair": (0, 1, 0),
  "clothes": (0, 0, 1),
  "mouth": (1, 0, 1),
  "beard": (0, 1, 1),
}


@functools.cache
def _shapes() -> tuple[np.ndarray, ...]:
  """Per layer the opacity [v, S, S] of its shapes, by its first attribute."""
  layers = atlas.premultiplied()
  return tuple(
    layers[first : first + layer.size : layer.size // at.COUNTS[layer.of[0]], ..., 3]
    for first, layer in zip(atlas.FIRST, at.LAYERS, strict=True)
  )  # fmt: skip


def shapes_of(rows: Int[ArrayLike, "*B A"], xp: Any = np) -> list[Any]:
  """Per layer its shape, one-hot float32 [*B, v], as `regions` takes it."""
  first = [layer.of[0] for layer in at.LAYERS]
  return [xp.eye(at.COUNTS[a], dtype=np.float32)[rows[..., a]] for a in first]


def regions(
  shapes: Sequence[Float[ArrayLike, "B 2 _"]],
  count: Int[ArrayLike, "B"],
  xp: Any = np,
) -> Float[Any, "B S S 3"]:
  """Maps of skin, eyes, hair, clothes, mouth and beard, see `REGIONS`.

  Args:
    shapes: per layer the weight of each of its shapes, for both people.
    count: people in the picture, 1 or 2.
    xp: numpy or jax.numpy.
  """

  def person_map(i, columns):
    image = xp.zeros((len(shapes[0]), 1, 1, 3), np.float32)
    for layer, share, opacity in zip(at.LAYERS, shapes, _shapes(), strict=True):
      opacity = xp.asarray(opacity[..., columns])
      alpha = xp.tensordot(share[:, i], opacity, 1)[..., None]
      colour = np.array(REGIONS[layer.name], np.float32)
      image = (1 - alpha) * image + alpha * colour
    return image

  alone = person_map(0, slice(None))
  two = xp.concatenate([person_map(i, HALF) for i in range(at.PEOPLE)], 2)
  return xp.where(xp.asarray(count)[:, None, None, None] == 1, alone, two)


def complete(keys: Array, rows: ArrayLike) -> Int[Array, "B 2 A"]:
  """Samples free attributes uniformly.

  Args:
    keys: [B].
    rows: int [B, 2, A], `FREE` for any value.
  """
  counts = jnp.array(at.COUNTS)

  def draw(key):
    uniform = jax.random.uniform(key, (at.PEOPLE, at.A))
    return jnp.minimum((uniform * counts).astype(jnp.int32), counts - 1)

  rows = jnp.asarray(rows)
  return jnp.where(rows == FREE, jax.vmap(draw)(keys), rows)


def render_prompts(
  keys: Array, prompts: PromptBatch
) -> Float[Array, "B S S 3"]:
  """Pictures of the prompts; free attributes are sampled with keys [B]."""
  request = prompts.extras
  rows = complete(keys, request.rows)
  return compose(rows, request.count, jnp)
