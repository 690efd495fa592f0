"""Videos of moving scenes, as pure functions of a key.

As in the scenes, objects lie in cells of a jittered grid. They move along its
rows and columns, two of them in different ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from jaxreward.tasks.motion import paths
from jaxreward.tasks.motion.prompts import CHANGES, JUMPS, OBJECTS
from jaxreward.tasks.scenes import grammar
from jaxreward.tasks.scenes import render as scenes
from jaxreward.types import Array, ArrayLike, PromptBatch

EDGE = 0.8  # minimum distance of moving objects from the border
JUMP = (7.5, 10.5)


def sample_scene(
  key: Key[Array, ""],
  items: Int[ArrayLike, "N 3"],
  fault: Int[ArrayLike, ""],
) -> scenes.Scene:
  """The objects of every frame, a Scene of leaves [F, N, ...]; vmap it over keys.

  Args:
    key: of the video.
    items: (colour, shape, motion), -1 for none.
    fault: as in `prompts.Asked`.
  """
  draw = lambda i, shape, low, high: jax.random.uniform(
    jax.random.fold_in(key, i), shape, minval=low, maxval=high
  )
  whole = lambda i, shape, low, high: jax.random.randint(
    jax.random.fold_in(key, i), shape, low, high
  )
  items = jnp.asarray(items)
  colour, shape, motion = (jnp.maximum(items[:, i], 0) for i in range(3))
  present = items[:, 0] >= 0
  bank = jnp.asarray(paths.BANK)
  offset = bank[motion, whole(0, (OBJECTS,), 0, paths.STEPS)]  # [N, F, 2]

  radius = draw(1, (OBJECTS,), *scenes.RADIUS)
  low = (radius + EDGE)[:, None]
  high = paths.SIDE - 1 - low
  first, last = low - offset.min(1), high - offset.max(1)
  is_vertical = (jnp.asarray(paths.VERTICAL)[motion] & present).any()
  along = jnp.where(is_vertical, 1, 0)  # the axis of the motion
  lane = jax.random.permutation(jax.random.fold_in(key, 3), scenes.GRID)
  cell = whole(4, (OBJECTS, 2), 0, scenes.GRID)
  is_along = jnp.arange(2) == along
  cell = jnp.where(is_along, cell, lane[:OBJECTS, None])
  start = scenes.CELL * (cell + 0.5) - 0.5
  start += draw(13, (OBJECTS, 2), -scenes.JITTER, scenes.JITTER)
  where = first + draw(2, (OBJECTS, 2), 0.0, 1.0) * (last - first)
  start = jnp.where(offset.any(1), where, start)
  lands = (motion == paths.FALLING) | (motion == paths.BOUNCING)
  start = start.at[:, 1].set(jnp.where(lands, last[:, 1], start[:, 1]))
  centre = start[:, None] + offset

  time = jnp.arange(paths.FRAMES)
  later = time >= whole(5, (), 2, paths.FRAMES - 1)
  at = jnp.take_along_axis(centre[0], jnp.full((paths.FRAMES, 1), along), 1)
  middle = paths.SIDE / 2 * later.sum()
  way = jnp.where((at * later[:, None]).sum() > middle, -1.0, 1.0)
  jump = way * draw(6, (), *JUMP) * later * (fault == JUMPS)
  place = centre[0] + jump[:, None] * is_along
  place = jnp.clip(place, low[0], high[0])
  centre = centre.at[0].set(jnp.where(fault == JUMPS, place, centre[0]))

  by_frame = lambda x: jnp.broadcast_to(x, (paths.FRAMES, *x.shape))
  is_colour = whole(7, (), 0, 2) == 1
  changes = later & (fault == CHANGES)

  def changed(x: Array, i: int, count: int, here: Array) -> Array:
    other = (x[0] + whole(i, (), 1, count)) % count
    return by_frame(x).at[:, 0].set(jnp.where(changes & here, other, x[0]))

  colour = changed(colour, 8, len(grammar.COLOURS), is_colour)
  shape = changed(shape, 9, len(grammar.SHAPES), ~is_colour)
  tone = draw(10, (OBJECTS, 3), -scenes.COLOUR_JITTER, scenes.COLOUR_JITTER)
  tint = draw(11, (3,), -scenes.TINT, scenes.TINT)
  background = jnp.clip(draw(12, (), *scenes.BACKGROUND) + tint, 0.0, 1.0)
  return scenes.Scene(
    present=by_frame(present),
    shape=shape,
    colour=jnp.clip(jnp.asarray(scenes.PALETTE)[colour] + tone, 0.0, 1.0),
    centre=centre.swapaxes(0, 1),
    radius=by_frame(radius),
    background=by_frame(background),
  )


def render_prompts(
  keys: Key[Array, "B"], prompts: PromptBatch
) -> Float[Array, "B F S S 3"]:
  """One video in [0, 1] for each of B prompts."""
  extras = prompts.extras
  scene = jax.vmap(sample_scene)(
    keys, jnp.asarray(extras.items), jnp.asarray(extras.fault)
  )
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), scene)
  frames = scenes.render(flat, paths.SIDE)
  return frames.reshape(-1, paths.FRAMES, *frames.shape[1:])
