"""Scores by other words, and gradients of rewards of one length.

SRPO scores an image by its prompt with words of praise in front, and against the same
prompt with words of blame (`align.controls`). Rewards that read their texts on the
host get all three wordings as rows of their context: P prompts, P praised, P blamed.
Without such words a prompt is set against the next one of the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxreward.data import texts
from jaxreward.errors import UserError
from jaxreward.feeds import Plan
from jaxreward.flow import path
from jaxreward.rewards import Reward, contexts_of
from jaxreward.rewards.scoring import Context, texts_of
from jaxreward.types import Array, ArrayLike, PromptBatch

WORDS = ("positive", "negative")


def words_of(config: ConfigDict) -> tuple[str, str] | None:
  """What is set before the prompts, or None.

  Raises:
    UserError: one of the two alone, or words that are no text.
  """
  section = config.align.controls
  for name in WORDS:
    if not isinstance(section[name], str):
      raise UserError(
        f"config.align.controls.{name}={section[name]!r}: expected words"
      )
  if not any(section[name] for name in WORDS):
    return None
  for name, other in (WORDS, WORDS[::-1]):
    if not section[name]:
      raise UserError(
        f'config.align.controls.{name}="": config.align.controls.{other} is set'
        " against it; give both, or neither"
      )
  return section.positive, section.negative


def require(words: tuple[str, str] | None, rewards: Mapping[str, Reward]):
  """Refuses words that no reward would read.

  Raises:
    UserError: no reward reads its texts on the host.
  """
  if words and not any(reward.prepare for reward in rewards.values()):
    raise UserError(
      f'config.align.controls.positive="{words[0]}": no reward of config.rewards'
      " reads free text; take one that does, such as pick_score, or"
      " leave both empty"
    )


def contexts(
  rewards: Mapping[str, Reward],
  prompts: PromptBatch,
  words: tuple[str, str] | None = None,
) -> dict[str, Context]:
  """Arrays of the differentiated rewards, with rows for each wording."""
  plain = contexts_of(rewards, prompts)
  if words is None:
    return plain
  every = [plain] + [
    contexts_of(rewards, _reworded(prompts, word)) for word in words
  ]
  join = lambda *x: jnp.concatenate(x)
  return {
    name: Context(
      context.shared, jax.tree.map(join, *(one[name].rows for one in every))
    )
    for name, context in plain.items()
  }


def _reworded(prompts: PromptBatch, word: str) -> PromptBatch:
  lines = [f"{word}. {text}" if text else "" for text in texts_of(prompts)]
  return dataclasses.replace(prompts, text=texts.encode(lines))


def rows(index: ArrayLike, of: str, plan: Plan) -> tuple[Any, Any]:
  """(rows of the prompts, rows of the contexts) that scores are made by."""
  index = jnp.asarray(index)
  if plan.is_controlled:
    shift = {"own": 1, "other": 2, "pull": 0}[of] * plan.prompts
    return index, index + shift
  if of == "other":
    index = (index + 1) % plan.prompts
  return index, index


def pull(images: Array, score: Callable[[Array], tuple[Any, Any]]) -> Array:
  """Inner products [M] of images with rewards' gradients of length 1 each.

  p = <image, sg(sum_k w_k g_k / |g_k|)>, g_k the gradient of reward k in the image;
  a reward without a slope there adds nothing.

  Args:
    images: [M, ...].
    score: images -> ({name: scores [M]}, {name: weight, or [M]}); a row does not
      depend on the others.
  """
  flat = images.reshape(len(images), -1)
  total = jnp.zeros_like(flat)
  constant = jax.lax.stop_gradient(images)
  for name, weight in score(constant)[1].items():
    slope = jax.grad(lambda x, name=name: score(x)[0][name].sum())(constant)
    slope = slope.reshape(flat.shape)
    length = jnp.linalg.norm(slope, axis=1, keepdims=True)
    unit = jnp.where(length > 0, slope / jnp.maximum(length, 1e-30), 0.0)
    total += path.expand(jnp.asarray(weight), unit) * unit
  return (flat * jax.lax.stop_gradient(total)).sum(1)
