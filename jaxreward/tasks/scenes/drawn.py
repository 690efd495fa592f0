"""Datasets that the task draws: scenes with their prompts, without an end."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxreward import rng
from jaxreward.data.preferences import as_bytes
from jaxreward.tasks.scenes import negatives, render
from jaxreward.types import Array, PromptBatch


def _keys(key: Array, prompts: PromptBatch, number: int) -> Array:
  ids = jnp.asarray(prompts.ids)
  return rng.sample_keys(key, ids, jnp.full(ids.shape, number))


@functools.partial(jax.jit, static_argnames="with_worse")
def images(
  key: Array, prompts: PromptBatch, *, with_worse: bool = False
) -> Array:
  """uint8 [P, 1, H, W, 3] that show what prompts ask for.

  Args:
    key: scalar key; an image depends on it and on the prompt's id.
    prompts: P prompts of the grammar.
    with_worse: adds the same image spoiled in one of `negatives.WAYS`, so that
      the result is [P, 2, H, W, 3].
  """
  better = render.render_prompts(_keys(key, prompts, 0), prompts)
  if not with_worse:
    return as_bytes(better)[:, None]
  keys = _keys(key, prompts, 1)
  draw = lambda k: jax.random.randint(k, (), 0, len(negatives.WAYS))
  ways = jax.vmap(draw)(keys)
  others = render.render_prompts(_keys(key, prompts, 2), prompts)
  worse = negatives.spoil(_keys(key, prompts, 3), better, others[::-1], ways)
  return as_bytes(jnp.stack([better, worse], 1))
