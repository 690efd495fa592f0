"""Endless datasets of rendered scenes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import rng
from jaxreward.data import texts
from jaxreward.data.preferences import as_bytes
from jaxreward.tasks.scenes import captions, grammar, render
from jaxreward.types import Array, ArrayLike, PromptBatch


@jax.jit
def _render(key: Array, ids: ArrayLike, prompts: PromptBatch) -> Array:
  """uint8 [P, H, W, 3]; shared attributes look alike under one id."""
  number = jnp.zeros(jnp.shape(ids), jnp.uint32)
  keys = rng.sample_keys(key, jnp.asarray(ids), number)
  return as_bytes(render.render_prompts(keys, prompts))


@functools.cache
def _training_pool() -> tuple[tuple[grammar.Prompt, ...], np.ndarray]:
  """(training prompts, their attributes [N, A])."""
  prompts = grammar.prompts("train")
  return prompts, np.array([captions.attributes(p) for p in prompts])


def _neighbours(
  prompts: PromptBatch, generator: np.random.Generator
) -> PromptBatch:
  """For each prompt a training prompt that differs in one attribute.

  A prompt without a neighbour gets itself.
  """
  pool, attributes = _training_pool()
  neighbours = []
  for text in texts.decode(np.asarray(prompts.text)):
    prompt = grammar.parse(text)
    distance = (attributes != np.array(captions.attributes(prompt))).sum(1)
    near = np.flatnonzero(distance == 1)
    neighbours.append(pool[generator.choice(near)] if len(near) else prompt)
  return grammar.batch(neighbours)


def images(
  key: Array, prompts: PromptBatch, *, with_worse: bool = False
) -> np.ndarray:
  """uint8 [P, 1, H, W, 3], images that satisfy the prompts.

  Args:
    key: scalar key; an image depends on it and on the prompt's id.
    prompts: P prompts of the grammar.
    with_worse: adds the scene of a prompt that differs in one attribute, or of
      the same prompt if there is none; the result is [P, 2, H, W, 3].
  """
  batches = [prompts]
  if with_worse:
    seed = np.asarray(jax.random.key_data(key))
    batches.append(_neighbours(prompts, np.random.default_rng(seed)))
  members = [_render(key, prompts.ids, batch) for batch in batches]
  return np.stack(jax.device_get(members), 1)
