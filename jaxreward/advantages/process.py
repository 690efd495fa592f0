"""Credit from rewards of single steps, and from rewards that own some steps."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.by_step import (
  bounded,
  gains,
  step_scores,
  to_go,
)
from jaxreward.advantages.group import group, require_reward
from jaxreward.errors import UserError
from jaxreward.flow import steppers
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike


def renormalised(
  step_signal: Float[ArrayLike, "P G S"],
  step_mask: Bool[ArrayLike, "P G S"],
  *,
  discount: float = 1.0,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """Rewards of steps, shifted by the outcome so that failures cannot gain.

  r_t = R_{t+1} + R_T - 1 with rewards that lie in [0, 1], and R_T for the last
  step; G_t = sum_k discount^k r_{t+k}, compared with the same step of the group. Where the outcome is 1 every r_t lies in [0, 1], where it is 0 in [-1, 0].
  PPR (ReNorm), https://arxiv.org/abs/2509.25598, of an agent's steps there; the form
  has the published property and is unverified.

  Args:
    step_signal: composed reward of every step's latents, finished by the ODE, and
      of the sample last.
    step_mask: True where it is valid; a sample with an invalid step is excluded.
    discount: of later steps.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.
  """
  mask = jnp.all(jnp.asarray(step_mask), axis=-1, keepdims=True)
  rewards = jnp.where(mask, step_signal, 0.0)
  outcome = rewards[..., -1:]
  shifted = rewards[..., 1:] + outcome - 1
  shifted = jnp.concatenate([shifted[..., :-1], outcome], -1)
  returns = to_go(shifted, discount)
  return bounded(step_scores(returns, mask, epsilon), mask, clip)


def segments(
  step_signal: Float[ArrayLike, "P G S"],
  step_mask: Bool[ArrayLike, "P G S"],
  *,
  strength: float = 0.5,
  passed: float = 0.5,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """The outcome's advantage, plus a verdict on each run of like steps.

  Steps that gain, and steps that lose, are merged where they follow one another; all
  steps of such a segment get its mean gain, over the largest such mean. With p the share of the group that
  passed, a gain weighs strength 2 (1 - p) and a loss strength 2 p: a weak group
  learns from what went well, a strong one from what did not.
  TP-GRPO, https://arxiv.org/abs/2507.23317, of thoughts of a reasoner there, judged by
  a generative model; the weights are unverified.

  Args:
    step_signal: see `renormalised`.
    step_mask: see `renormalised`.
    strength: of the verdicts, beside an outcome of unit spread; 0 is `group`.
    passed: smallest final reward that passes.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage of the outcome; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.

  Raises:
    UserError: a strength below 0.
  """
  if not strength >= 0:
    raise UserError(
      f"config.advantage.strength={strength}: it must be 0 or above"
    )
  mask = jnp.all(jnp.asarray(step_mask), axis=-1)
  safe = jnp.where(mask[..., None], step_signal, 0.0)
  outcome = group(safe[..., -1], mask, epsilon=epsilon, clip=clip)
  verdict = merged(gains(safe))
  is_good = (safe[..., -1] >= passed).astype(jnp.float32)
  share = masked_mean(is_good, mask, axis=1, keepdims=True)
  weight = 2 * jnp.where(verdict > 0, 1 - share[..., None], share[..., None])
  advantage = outcome[..., None] + strength * weight * verdict
  return jnp.where(mask[..., None], advantage, 0.0)


def merged(gain: Float[ArrayLike, "P G T"]) -> Float[Array, "P G T"]:
  """The mean of each run of gains of one sign, over the largest such mean."""
  gain = jnp.asarray(gain)
  sign = jnp.sign(gain)
  starts = jnp.concatenate(
    [jnp.ones_like(sign[..., :1]), sign[..., 1:] != sign[..., :-1]], -1
  )
  label = jnp.cumsum(starts, axis=-1)
  same = label[..., :, None] == label[..., None, :]
  mean = jnp.sum(jnp.where(same, gain[..., None, :], 0.0), -1) / same.sum(-1)
  top = jnp.max(jnp.abs(mean), axis=-1, keepdims=True)
  return mean / jnp.where(top > 0, top, 1.0)


def by_phase(
  scores: Mapping[str, Float[ArrayLike, "P G"]],
  mask: Bool[ArrayLike, "P G"],
  steps: steppers.StepTable,
  *,
  early: str,
  late: str,
  boundary: float = 0.7,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """One reward teaches the early steps and another the late ones.

  A_t = z(early) where t >= boundary and z(late) below it, plus, at all steps, the
  z-scores of the rewards that are neither, each within its group.
  Zoom-Zero, https://arxiv.org/abs/2512.14273, of tokens that locate and tokens that
  answer; on a flow the layout is decided near noise and the details near data.

  Args:
    scores: name -> raw scores.
    mask: True where a sample counts.
    steps: constants of the sampler's steps.
    early: name of the reward of the steps near noise.
    late: name of the reward of the steps near data.
    boundary: time between them, in [0, 1].
    epsilon: see `group`.
    clip: see `group`.

  Returns:
    advantage, 0 where masked.

  Raises:
    UserError: a name that is not a reward, or a boundary outside [0, 1].
  """
  if not 0 <= boundary <= 1:
    raise UserError(
      f"config.advantage.boundary={boundary}: a time lies in [0, 1]"
    )
  for field, name in (("early", early), ("late", late)):
    require_reward(field, name, scores)
  z = {
    name: group(score, mask, epsilon=epsilon, clip=clip)
    for name, score in scores.items()
  }
  shared = sum(z[name] for name in z if name not in (early, late))
  is_early = jnp.asarray(steps.t) >= boundary
  phase = jnp.where(is_early, z[early][..., None], z[late][..., None])
  shared = jnp.broadcast_to(shared, jnp.shape(mask))
  advantage = phase + shared[..., None]
  return jnp.where(jnp.asarray(mask)[..., None], advantage, 0.0)


def by_difficulty(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  *,
  sharpness: float = 1.0,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G"]:
  """`group`, scaled by how hard its prompt is for the policy.

  A s, s = 2 sigmoid(sharpness (mean r - mean_G r) / std of the groups' means): 1 for
  a prompt of average reward, towards 2 for hard ones and 0 for solved ones.
  DR-IRL (GRPO-S), https://arxiv.org/abs/2503.18991, where hardness is of texts and
  of the gap to a reference; the form is unverified. Before a division by the group's
  deviation such a scale would cancel.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    sharpness: of the scale; 0 is `group`.
    epsilon: see `group`, and added to the deviation of the groups' means.
    clip: see `group`; before the scale.

  Returns:
    advantage, 0 where masked.

  Raises:
    UserError: a sharpness below 0.
  """
  if not sharpness >= 0:
    raise UserError(
      f"config.advantage.sharpness={sharpness}: it must be 0 or above"
    )
  advantage = group(signal, mask, epsilon=epsilon, clip=clip)
  mean = masked_mean(signal, mask, axis=1)
  there = jnp.any(mask, axis=1)
  spread = masked_std(mean, there) + epsilon
  gap = (masked_mean(mean, there) - mean) / jnp.where(spread > 0, spread, 1.0)
  scale = 2 / (1 + jnp.exp(-sharpness * gap))
  return advantage * scale[:, None]
