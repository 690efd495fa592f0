"""Credit that is not only relative to the prompt's own group."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.group import group
from jaxreward.errors import UserError, require_not_negative
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike

Signal = Float[ArrayLike, "P G"]
Mask = Bool[ArrayLike, "P G"]


def given(
  signal: Signal, mask: Mask, *, clip: float | None = 5.0
) -> Float[Array, "P G"]:
  """The signal itself, for compositions that already compare samples.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.
  """
  require_not_negative("advantage.", clip=clip)
  advantage = jnp.where(mask, jnp.asarray(signal, jnp.float32), 0.0)
  return jnp.clip(advantage, -clip, clip) if clip else advantage


def exponential(
  signal: Signal,
  mask: Mask,
  *,
  tau: float = 2.0,
  most: float = 15.0,
  among: str = "batch",
) -> Float[Array, "P G"]:
  """Weights min(exp(tau z), most) with mean 1, of the reward's z-score.

  They are positive: for an objective that fits samples, `flow_matching`. The
  variance is over n - 1, as published.
  FlowBoost, https://arxiv.org/abs/2601.18005, tau 2 and at most 15, read in the
  authors' code; reward-weighted flow matching.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    tau: sharpness of the weights; 0 weights all samples equally.
    most: largest weight before the division by the mean.
    among: z over the "batch", as published for one task, or the "group".

  Returns:
    weights, 0 where masked; all 1 where rewards are equal.

  Raises:
    UserError: a tau below 0, a weight that is not positive, an unknown `among`.
  """
  if not (tau >= 0 and most > 0):
    raise UserError(
      f"config.advantage.tau={tau} and most={most}: the first is 0 or above, the"
      " second above 0"
    )
  if among not in ("batch", "group"):
    raise UserError(
      f'config.advantage.among="{among}": it is "batch" or "group"'
    )
  safe = jnp.where(mask, jnp.asarray(signal, jnp.float32), 0.0)
  axis = 1 if among == "group" else (0, 1)
  mean, std = (f(safe, mask, axis, True) for f in (masked_mean, masked_std))
  count = jnp.sum(mask, axis=axis, keepdims=True)
  std = std * jnp.sqrt(count / jnp.maximum(count - 1, 1))
  z = jnp.where(std > 0, (safe - mean) / jnp.where(std > 0, std, 1.0), 0.0)
  weight = jnp.where(mask, jnp.minimum(jnp.exp(tau * z), most), 0.0)
  mean_weight = masked_mean(weight, mask)
  return weight / jnp.where(mean_weight > 0, mean_weight, 1.0)


def global_and_local(
  signal: Signal,
  mask: Mask,
  *,
  sharpness: float = 1.0,
  bits: float = 1.0,
  resolution: float = 1e-3,
  epsilon: float = 1e-6,
  clip: float = 5.0,
) -> Float[Array, "P G"]:
  """Groups whose samples agree are compared with the other groups.

  H is the entropy, in bits, of the outcomes in a group of n,
  g = mean_i r_i (1 - (1 - 1/n) / log2(n) H),
  A = w A_local + (1 - w) A_global, w = sigmoid(sharpness (H - bits)), and 0
  where all rewards of the group are equal; A_local is the z-score over the group
  and A_global that of g over the prompts, one for all members.
  COPO, https://arxiv.org/abs/2508.04138, read in the authors' code, with equal
  rewards instead of equal answers. There each advantage has its own clipped loss
  and w mixes the losses: the same while neither clips. `bits` is
  unverified. Where all fail, A_global pushes every sample down equally, without
  a direction: hence `clip`.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    sharpness: of w; 1 in the authors' code.
    bits: entropy at which both weigh the same.
    resolution: rewards closer than this are one outcome, above 0.
    epsilon: added to both standard deviations.
    clip: largest absolute value of either.

  Returns:
    advantage, 0 where masked.

  Raises:
    UserError: a resolution that is not positive.
  """
  if not resolution > 0:
    raise UserError(
      f"config.advantage.resolution={resolution}: it must be above 0"
    )
  safe = jnp.where(mask, jnp.asarray(signal, jnp.float32), 0.0)
  outcome = jnp.round(safe / resolution)
  same = (outcome[:, :, None] == outcome[:, None, :]) & jnp.asarray(mask)[
    :, None, :
  ]
  count = jnp.sum(mask, axis=1)
  share = jnp.sum(same, axis=2) / jnp.maximum(count, 1)[:, None]
  entropy = masked_mean(-jnp.log2(jnp.where(mask, share, 1.0)), mask, axis=1)
  n = jnp.maximum(count, 2)
  agreement = 1 - (1 - 1 / n) / jnp.log2(n) * entropy
  local = group(safe, mask, std="group", epsilon=epsilon, clip=clip)
  value = masked_mean(safe, mask, axis=1) * agreement
  has_samples = count > 0
  across = (value - masked_mean(value, has_samples)) / (
    masked_std(value, has_samples) + epsilon
  )
  across = jnp.clip(jnp.where(has_samples, across, 0.0), -clip, clip)[:, None]
  weight = jax.nn.sigmoid(sharpness * (entropy - bits))[:, None]
  weight = jnp.where(masked_std(safe, mask, 1, True) > 0, weight, 0.0)
  return jnp.where(mask, weight * local + (1 - weight) * across, 0.0)
