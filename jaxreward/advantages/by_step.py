"""Credit for every denoising step."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike


def gains(
  step_signal: Float[ArrayLike, "P G S"],
) -> Float[Array, "P G T"]:
  """What each step has added: R_{i+1} - R_i, with T = S - 1.

  R_i is the reward of the latents before step i, finished by the ODE, and R_T
  that of the sample: the gains of a sample add up to R_T - R_0.
  """
  return jnp.diff(jnp.asarray(step_signal), axis=-1)


def dense(
  step_signal: Float[ArrayLike, "P G S"],
  step_mask: Bool[ArrayLike, "P G S"],
  *,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """The gain of each step, compared with the same step of the group.

  A = clip((d - mean_G d) / (std_G d + epsilon), -clip, clip) with d the gains,
  one mean and one deviation per prompt and step.
  DenseGRPO, https://arxiv.org/abs/2601.20218; the noise level of each step, which
  the paper calibrates before training, is that of the sampler here.

  Args:
    step_signal: composed reward of every step's latents, finished by the ODE on
      the sampler's own times, and of the sample last.
    step_mask: True where it is valid; a sample with one that is not is left out
      of every step.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.
  """
  mask = jnp.all(jnp.asarray(step_mask), axis=-1, keepdims=True)
  gain = jnp.where(mask, gains(step_signal), 0.0)
  mask = jnp.broadcast_to(mask, gain.shape)
  centred = gain - masked_mean(gain, mask, axis=1, keepdims=True)
  scale = masked_std(gain, mask, axis=1, keepdims=True) + epsilon
  advantage = centred / jnp.where(scale > 0, scale, 1.0)
  if clip:
    advantage = jnp.clip(advantage, -clip, clip)
  return jnp.where(mask, advantage, 0.0)
