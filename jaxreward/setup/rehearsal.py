"""Tries user rewards and evaluators before anything is built or loaded.

A function that runs in jit is traced on shapes, without computation. One that runs
on the host is called once, with two prompts and a group of noise images: one that
always raises, or does not return scores, ends the run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import rewards, setup, user_code
from jaxreward.errors import UserError
from jaxreward.evaluation.evaluators import Evaluators
from jaxreward.setup import evaluators
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks import Task
from jaxreward.types import Array, PromptBatch

_PROMPTS = 2  # of which a reward may fail for one


def run(config: ConfigDict) -> None:
  """Tries every reward and evaluator that is not part of the package.

  Those with a loader are skipped, as loading is expensive.

  Args:
    config: of a job with rewards; call it before arrays are made, in every
      process.

  Raises:
    UserError: names the reward, the line of its file, and the fix.
  """
  functions = {
    name: entry.fn
    for name, entry in reward_setup.bind(config).items()
    if user_code.is_own(entry.fn) and entry.loads is None
  }
  numbers = evaluators.bind(config)
  if not functions and not any(
    map(user_code.is_own, numbers.functions.values())
  ):
    return
  images, prompts = probe(config)
  validate_rewards(functions, images, prompts, trained=tuple(config.rewards))
  try_numbers(numbers, setup.make_task(config), images, prompts)


def probe(config: ConfigDict) -> tuple[np.ndarray, PromptBatch]:
  """(noise images [2, G, H, W, C], prompts) with the shapes of the run."""
  policy = setup.make_policy(config)
  prompts = setup.load_prompts(config, "train")[:_PROMPTS]
  batch = setup.make_task(config).batch(
    prompts, _PROMPTS, setup.picture_side(policy)
  )
  rows = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  decoder = None
  if policy.decoder is not None:
    decoder = jax.eval_shape(policy.decoder, jax.random.key(0))
  shape = jax.eval_shape(policy.to_pixels, rows, decoder).shape[1:]
  images = np.random.default_rng(0).random(
    (_PROMPTS, config.rollout.group, *shape), np.float32
  )
  return images, batch


def validate_rewards(
  functions: Mapping[str, Callable[..., Any]],
  images: np.ndarray,
  prompts: PromptBatch,
  trained: tuple[str, ...] = (),
) -> None:
  """Calls rewards once: in jit on shapes, on the host with these images.

  Args:
    functions: bound, by the names of the config.
    images: [P, G, H, W, C].
    prompts: P prompts.
    trained: names of rewards that have to return one score.
  """
  rewards_by_name = rewards.build(functions)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (images, prompts)
  )
  names: set[str] = set()
  for reward in rewards_by_name.values():
    for _ in range(
      0 if reward.is_host else 2
    ):  # the second call shows leaked tracers
      names |= set(_traced(reward, *shapes))
  names |= set(rewards.host_scores(rewards_by_name, images, prompts))
  for name in trained:
    several = sorted(k for k in names if k.startswith(f"{name}/"))
    if name in rewards_by_name and name not in names:
      raise UserError(
        f"config.rewards.{name}: the reward returned several scores"
        f" ({', '.join(several)}); one that is trained on returns one"
      )


def try_numbers(
  numbers: Evaluators, task: Task, images: np.ndarray, prompts: PromptBatch
) -> None:
  """Traces the evaluators that run in jit, on shapes.

  Args:
    numbers: their options bound.
    task: of the prompts.
    images: [P, G, H, W, C].
    prompts: P prompts.
  """

  def ask(images: Array, prompts: PromptBatch) -> Mapping[str, Any]:
    return numbers.drawn(
      images=images, pixels=images, batch=prompts,
      measures=task.measure(images, images, prompts),
      mask=jnp.ones(images.shape[:2], bool),
    )  # fmt: skip

  jax.eval_shape(ask, images, prompts)


def _traced(reward: rewards.Reward, images, prompts) -> Mapping[str, Any]:
  """Shapes of the scores, traced in a fresh function to avoid the jit cache."""
  inside = {reward.name: reward}

  def ask(images, prompts):
    contexts = rewards.contexts_of(inside, prompts)
    return rewards.device_scores(inside, contexts, images, prompts)

  program, scores = jax.make_jaxpr(ask, return_shape=True)(images, prompts)
  if any(isinstance(x, jax.core.Tracer) for x in program.consts):
    error = jax.errors.UnexpectedTracerError("kept")
    raise UserError(f'reward "{reward.name}": {user_code.explain(error)}')
  return scores
