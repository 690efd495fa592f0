"""Steering that a config names, for the jobs evaluate and sample."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import steering
from jaxreward.errors import UserError, nearest, shown
from jaxreward.rewards import (
  Reward,
  contexts_of,
  device_scores,
  mask_inapplicable,
  score,
)
from jaxreward.setup import checks
from jaxreward.setup.sampling import make_sampler, section_times, step_table
from jaxreward.setup.starts import start_latents
from jaxreward.types import Array, Policy, PromptBatch


def make_steering(config: ConfigDict, section: str) -> steering.Steering | None:
  """The method of `config.<section>.steering`; None for "none".

  Raises:
    UserError: an unknown option, no reward to steer by, or a deterministic
      sampler where noise is needed.
  """
  options = config[section].steering
  if options.name == "none":
    return None
  field = f"{section}.steering"
  make = config_lib.bind(options, steering.REGISTRY, field=field)
  try:
    method = make()
  except UserError as error:
    raise UserError(f"config.{section}.{error}") from error
  if not any(r.get("weight", 1.0) for r in config.rewards.values()):
    raise UserError(
      f'config.{field}.name="{options.name}" needs a reward with a weight in'
      ' config.rewards to steer by; name one, or use "none"'
    )
  for option in ("by", "clear"):
    name = getattr(method, option)
    if name and name not in config.rewards:
      raise UserError(
        f'config.{field}.{option}="{shown(name)}": no reward is called so'
        f"{nearest(name, config.rewards)}; there are"
        f" {', '.join(config.rewards)}"
      )
  most = max(method.particles, method.kept)
  checks.require_product(
    config,
    checks.SAMPLES[section],
    **{f'{field}.name="{options.name}" particles': most},
  )
  table = step_table(config, section)
  if method.needs_noise and not (np.asarray(table.std) > 0).any():
    raise UserError(
      f'config.{field}.name="{options.name}": copies of a particle stay equal'
      f' with config.{section}.sampler.name="{config[section].sampler.name}",'
      ' which draws no noise; use "cps" there, or steer with "best_of_n"'
    )
  if len(np.asarray(table.t)) < method.least_steps:
    raise UserError(
      f'config.{field}.name="{options.name}" looks after'
      f" {method.least_steps - 1} steps, but the sampler takes"
      f" {len(np.asarray(table.t))}; look earlier, or raise"
      f" config.{section}.num_steps"
    )
  return method


def _weighted(
  rewards: Mapping[str, Reward], weights: Mapping[str, Any]
) -> dict[str, Reward]:
  """The rewards to steer by: those with a weight."""
  return {name: rewards[name] for name, w in weights.items() if w != 0}


def score_of(
  rewards: Mapping[str, Reward],
  weights: Mapping[str, Any],
  nothing: float = 0.0,
) -> Callable[[Array, PromptBatch], Array]:
  """(images [P, S, H, W, C], prompts) -> weighted sum of scores [P, S].

  Args:
    rewards: by name.
    weights: name -> weight, of those to steer by.
    nothing: the score where no reward is applicable.
  """
  steering_rewards = _weighted(rewards, weights)

  def total(images: Array, prompts: PromptBatch) -> Array:
    scores, _ = score(steering_rewards, images, prompts)
    scores, factors = mask_inapplicable(scores, weights, prompts.plain)
    parts = [factors[k] * scores[k] for k in steering_rewards]
    applies = jnp.stack([factors[k] != 0 for k in steering_rewards]).any(0)
    return jnp.where(applies, jnp.stack(parts).sum(0), nothing)

  return total


def gradients_of(
  rewards: Mapping[str, Reward], weights: Mapping[str, Any]
) -> Callable[[Array, PromptBatch], tuple[Array, Array]]:
  """`steering.Gradients` of the rewards to steer by.

  Raises:
    UserError: a reward that runs on the host; or at the first images, one whose
      gradient is zero in all of them.
  """
  steering_rewards = _weighted(rewards, weights)
  for name, reward in steering_rewards.items():
    if reward.is_host:
      raise UserError(
        f"config.rewards.{name}: it runs on the host and has no gradient to steer"
        ' by; use a reward in JAX, or steer with "best_of_n"'
      )

  @functools.partial(jax.jit, static_argnums=0)
  def one(name, contexts, images, prompts):
    def total(images):
      reward = {name: steering_rewards[name]}
      values = device_scores(reward, contexts, images, prompts)
      values, factors = mask_inapplicable(
        {name: values[name]}, {name: weights[name]}, prompts
      )
      value = jnp.asarray(factors[name] * values[name], jnp.float32)
      return jnp.where(jnp.isfinite(value), value, 0.0).sum(), value

    (_, value), gradient = jax.value_and_grad(total, has_aux=True)(images)
    return value, gradient

  checked: set[str] = set()  # rewards whose gradient has been looked at

  def gradients(images: Array, prompts: PromptBatch) -> tuple[Array, Array]:
    contexts = contexts_of(steering_rewards, prompts)
    pairs = {
      name: one(name, contexts, images, prompts.plain)
      for name in steering_rewards
    }
    for name in pairs.keys() - checked:
      _require_gradient(name, pairs[name][1])
      checked.add(name)
    values, slopes = zip(*pairs.values(), strict=True)
    return jnp.stack(values), jnp.stack(slopes)

  return gradients


def _require_gradient(name: str, gradient: Array) -> None:
  if not float(jnp.abs(jnp.nan_to_num(gradient)).max()) > 0:
    raise UserError(
      f"config.rewards.{name}: its gradient in the images is zero, and steering"
      ' follows it; take a differentiable reward, or steer with "best_of_n"'
    )


def make_particles(
  config: ConfigDict,
  section: str,
  method: steering.Steering,
  policy: Policy,
  prompts: int,
  group: int,
  rewards: Mapping[str, Reward],
  *,
  seed: int,
  stream: str,
) -> steering.Particles:
  """The particles of P x G images.

  Args:
    config: of the run.
    section: "eval" or "sample".
    method: from `make_steering`.
    policy: takes the parameters that draw.
    prompts: P.
    group: G.
    rewards: all that are loaded; those of `config.rewards` steer.
    seed: of all random draws.
    stream: name of the sampler's stream of keys.

  Raises:
    UserError: a reward without a gradient, where the method follows one.
  """
  weights = {k: r.weight for k, r in rewards.items() if k in config.rewards}
  return steering.Particles(
    make=lambda rows, scale: make_sampler(
      config, section, policy, prompts, rows, scale
    ),
    score=score_of(rewards, weights),
    group=group, count=method.particles,
    steps=len(section_times(config, section)[0]) - 1,
    start=functools.partial(start_latents, config, section, policy),
    seed=seed, stream=stream,
    gradients=gradients_of(rewards, weights) if method.needs_gradient else None,
    look=score_of(rewards, {method.by: 1.0}, np.nan) if method.by else None,
    clear=score_of(rewards, {method.clear: 1.0}, np.nan)
    if method.clear else None,
  )  # fmt: skip
