"""Credit from rewards of steps that a player has learned."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.by_step import bounded, step_scores, to_go
from jaxreward.advantages.group import group
from jaxreward.errors import UserError, require_not_negative
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike

Signal = Float[ArrayLike, "P G"]
Mask = Bool[ArrayLike, "P G"]
Steps = Float[ArrayLike, "P G T"]


def implicit_process(
  signal: Signal,
  mask: Mask,
  step_rewards: Steps,
  *,
  process: float = 1.0,
  least: float | None = None,
  most: float | None = None,
  epsilon: float = 1e-8,
) -> Float[Array, "P G T"]:
  """PRIME: returns of implied step rewards and of the outcome, each leave-one-out.

  Step rewards are divided by the largest |sum to the end| of the iteration;
  r'_t = (n r_t - sum_j mean_t r_j) / (n - 1), summed to the end, times `process`;
  plus (n R - sum_j R_j) / (n - 1) at all steps; then whitened over the iteration.
  Cui et al. 2025, https://arxiv.org/abs/2502.01456, read in the authors' code, which
  keeps prompts of a mean reward in [.2, .8]; its coefficients of 5, of both rewards,
  enter a logged sum alone.

  Args:
    signal: R, composed reward.
    mask: True where the reward is valid.
    step_rewards: r of a player, before its update.
    process: weight of the step rewards.
    least: groups of a smaller mean reward are dropped; None for no bound.
    most: and those of a larger one.
    epsilon: added to the standard deviation.

  Returns:
    advantage; NaN in dropped groups.

  Raises:
    UserError: bounds in the wrong order.
  """
  require_not_negative("config.advantage.", epsilon=epsilon)
  if least is not None and most is not None and not least < most:
    raise UserError(
      f"config.advantage.least={least}: it must be below most={most}"
    )
  there = jnp.asarray(mask)[..., None]
  rewards = jnp.where(there, step_rewards, 0.0)
  largest = jnp.abs(to_go(rewards, 1.0)).max()
  rewards = rewards / jnp.where(largest > 0, largest, 1.0)
  count = jnp.sum(mask, axis=1, keepdims=True)
  others = jnp.maximum(count - 1, 1)
  outcome = jnp.where(mask, signal, 0.0)
  apart = lambda x, mean: (
    (count[..., None] * x - mean.sum(1, keepdims=True)[..., None])
    / others[..., None]
  )
  steps = to_go(apart(rewards, rewards.mean(-1)), 1.0)
  total = process * steps + apart(outcome[..., None], outcome)
  every = jnp.broadcast_to(there, total.shape)
  total = (total - masked_mean(total, every)) / (
    masked_std(total, every) + epsilon
  )
  mean = masked_mean(signal, mask, axis=1, keepdims=True)
  low = -jnp.inf if least is None else least
  high = jnp.inf if most is None else most
  counts = ((mean >= low) & (mean <= high))[..., None]
  return jnp.where(counts, jnp.where(there, total, 0.0), jnp.nan)


def outcome_and_process(
  signal: Signal,
  mask: Mask,
  step_rewards: Steps,
  *,
  process: float = 1.0,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """OPRL: `group`, plus step rewards normalised over all steps of the group.

  A_t = A + process (r_t - mean) / (std + epsilon), mean and deviation over the
  samples and steps of a prompt; equal step rewards leave A.
  https://arxiv.org/abs/2509.19199; the weight is unverified.

  Args:
    signal: composed reward.
    mask: True where the reward is valid.
    step_rewards: of a player, before its update.
    process: weight of the step rewards.
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`.

  Returns:
    advantage, 0 where masked.
  """
  there = jnp.asarray(mask)[..., None]
  every = jnp.broadcast_to(there, jnp.shape(step_rewards))
  rewards = jnp.where(there, step_rewards, 0.0)
  mean, spread = (
    f(rewards, every, (1, 2), True) for f in (masked_mean, masked_std)
  )
  steps = (rewards - mean) / (spread + epsilon)
  outcome = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  return bounded(outcome[..., None] + process * steps, there, clip)


def outcome_and_values(
  signal: Signal,
  mask: Mask,
  step_values: Steps,
  *,
  process: float = 1.0,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """Euphonium: `group`, plus the value of each step against the same step's mean.

  A_t = A + process (V_t - mean_G V_t) / (std_G V_t + epsilon).
  https://arxiv.org/abs/2602.04928, read in the authors' code, which has a clipped loss
  for each of the two.

  Args:
    signal: composed reward.
    mask: True where the reward is valid.
    step_values: of a player, of the latents before each step.
    process: weight of the values.
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`; of either part.

  Returns:
    advantage, 0 where masked.
  """
  there = jnp.asarray(mask)[..., None]
  values = jnp.where(there, step_values, 0.0)
  steps = bounded(step_scores(values, there, epsilon), there, clip)
  outcome = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  return jnp.where(there, outcome[..., None] + process * steps, 0.0)


def redistributed(
  signal: Signal,
  mask: Mask,
  step_rewards: Steps,
  *,
  discount: float = 1.0,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """LaRe: parts of the return, what they miss put on the last step.

  r_t + [t = T] (R - sum_t r_t), summed to the end and compared with the same step of
  the group. https://arxiv.org/abs/2412.11120; where the rest goes is unverified.

  Args:
    signal: R, composed reward.
    mask: True where the reward is valid.
    step_rewards: of a player, before its update.
    discount: of later steps.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.
  """
  there = jnp.asarray(mask)[..., None]
  returns = to_go(whole_return(signal, mask, step_rewards), discount)
  return bounded(step_scores(returns, there, epsilon), there, clip)


def whole_return(
  signal: Signal, mask: Mask, step_rewards: Steps
) -> Float[Array, "P G T"]:
  """Step rewards that add up to the sample's reward; 0 where masked."""
  there = jnp.asarray(mask)[..., None]
  rewards = jnp.where(there, step_rewards, 0.0)
  rest = jnp.where(mask, signal, 0.0) - rewards.sum(-1)
  return rewards.at[..., -1].add(rest)
