"""A person's own rewards and evaluators, tried before anything is built, loaded or trained.

One that runs in jit is traced on shapes, which computes nothing. One that runs
on the host is asked once, for two prompts and a group of pictures of noise:
what always raises, or returns what are no scores, ends the run here.
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
  """Tries every reward and evaluator that is no part of the package.

  Those that load something of their own are left out: loading is dear.

  Args:
    config: of a job that asks rewards; call it before arrays are made, and in
      every process.

  Raises:
    UserError: the reward, the line of its file, and what mends it.
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
  """(pictures of noise [2, G, H, W, C], their prompts) as a run has them."""
  policy = setup.make_policy(config)
  chosen = setup.load_prompts(config, "train")[:_PROMPTS]
  batch = setup.make_task(config).batch(
    chosen, _PROMPTS, setup.picture_side(policy)
  )
  rows = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  decoder = None
  if policy.decoder is not None:
    decoder = jax.eval_shape(policy.decoder, jax.random.key(0))
  shape = jax.eval_shape(policy.to_pixels, rows, decoder).shape[1:]
  drawn = np.random.default_rng(0).random(
    (_PROMPTS, config.rollout.group, *shape), np.float32
  )
  return drawn, batch


def validate_rewards(
  functions: Mapping[str, Callable[..., Any]],
  images: np.ndarray,
  prompts: PromptBatch,
  trained: tuple[str, ...] = (),
) -> None:
  """Asks rewards once: in jit on shapes, on the host for these pictures.

  Args:
    functions: bound, by the names of the config.
    images: [P, G, H, W, C].
    prompts: P prompts.
    trained: names of rewards that have to return one score.
  """
  built = rewards.build(functions)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (images, prompts)
  )
  names: set[str] = set()
  for reward in built.values():
    for _ in range(0 if reward.is_host else 2):  # the second sees what was kept
      names |= set(_traced(reward, *shapes))
  names |= set(rewards.host_scores(built, images, prompts))
  for name in trained:
    several = sorted(k for k in names if k.startswith(f"{name}/"))
    if name in built and name not in names:
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
  """Shapes of the scores; a function of its own, so that nothing is cached."""
  inside = {reward.name: reward}

  def ask(images, prompts):
    contexts = rewards.contexts_of(inside, prompts)
    return rewards.device_scores(inside, contexts, images, prompts)

  program, scores = jax.make_jaxpr(ask, return_shape=True)(images, prompts)
  if any(isinstance(x, jax.core.Tracer) for x in program.consts):
    kept = jax.errors.UnexpectedTracerError("kept")
    raise UserError(f'reward "{reward.name}": {user_code.explain(kept)}')
  return scores
