"""Datasets that the task draws: scenes of prompts, without an end."""

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
  """uint8 [P, H, W, 3]; what two prompts share is drawn alike under one id."""
  number = jnp.zeros(jnp.shape(ids), jnp.uint32)
  keys = rng.sample_keys(key, jnp.asarray(ids), number)
  return as_bytes(render.render_prompts(keys, prompts))


@functools.cache
def _known() -> tuple[tuple[grammar.Prompt, ...], np.ndarray]:
  """(training prompts, their attributes [N, A])."""
  prompts = grammar.prompts("train")
  return prompts, np.array([captions.attributes(p) for p in prompts])


def _neighbours(
  prompts: PromptBatch, generator: np.random.Generator
) -> PromptBatch:
  """For each prompt a training prompt that differs in one attribute.

  A prompt that has no such neighbour is its own.
  """
  known, attributes = _known()
  chosen = []
  for text in texts.decode(np.asarray(prompts.text)):
    own = grammar.parse(text)
    distance = (attributes != np.array(captions.attributes(own))).sum(1)
    near = np.flatnonzero(distance == 1)
    chosen.append(known[generator.choice(near)] if len(near) else own)
  return grammar.batch(chosen)


def images(
  key: Array, prompts: PromptBatch, *, with_worse: bool = False
) -> np.ndarray:
  """uint8 [P, 1, H, W, 3] that show what prompts ask for.

  Args:
    key: scalar key; an image depends on it and on the prompt's id.
    prompts: P prompts of the grammar.
    with_worse: adds the scene of another prompt that differs in one attribute,
      so that the result is [P, 2, H, W, 3]; the same where there is none.
  """
  asked = [prompts]
  if with_worse:
    seed = np.asarray(jax.random.key_data(key))
    asked.append(_neighbours(prompts, np.random.default_rng(seed)))
  members = [_render(key, prompts.ids, some) for some in asked]
  return np.stack(jax.device_get(members), 1)
