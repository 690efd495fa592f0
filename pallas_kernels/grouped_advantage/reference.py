"""Advantage and clipped loss in plain operations, shared by the kernels.

Arrays are laid out for the kernels: prompts last, on a TPU's lanes,
group members before them, denoising steps first. Everything is float32.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.types import Array

# Rows of the statistics, each a sum over a prompt's members and steps.
STATISTICS = (
  "loss",
  "count",
  "ratio",
  "log_ratio_abs",
  "approx_kl",
  "clip_fraction_low",
  "clip_fraction_high",
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Static choices.

  Attributes:
    std: "group", "batch" or "none"; "given" takes the signal as the advantage.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.
    leave_one_out: compares with the mean of the others.
    low: smallest ratio that counts.
    high: largest one.
  """

  std: str = "group"
  epsilon: float = 1e-4
  clip: float | None = 5.0
  leave_one_out: bool = False
  low: float = 1.0
  high: float = 1.0


def credit(
  signal: Float[Array, "G P"],
  mask: Bool[Array, "G P"],
  scale: Float[Array, "1 P"],
  options: Options,
) -> Float[Array, "G P"]:
  """Advantage of every member, 0 where masked.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    scale: standard deviation of the batch; read if `std` is "batch".
    options: static choices.
  """
  if options.std == "given":
    return jnp.where(mask, signal, 0.0)
  count = jnp.sum(mask.astype(jnp.float32), axis=0, keepdims=True)
  low = jnp.min(jnp.where(mask, signal, jnp.inf), axis=0, keepdims=True)
  # Relative to the smallest one, equal rewards are exact zeros.
  offset = jnp.where(mask, signal - low, 0.0)
  safe = jnp.maximum(count, 1.0)
  mean = jnp.sum(offset, axis=0, keepdims=True) / safe
  centred = jnp.where(mask, offset - mean, 0.0)
  epsilon = options.epsilon
  if options.std == "group":
    # Scaled by a power of two so that squares neither overflow nor underflow.
    top = jnp.max(offset, axis=0, keepdims=True)
    unit = jnp.where(top > 2.0**50, 2.0**-70, 1.0)
    unit = jnp.where((top > 0) & (top < 2.0**-50), 2.0**70, unit)
    squares = jnp.square(centred * unit)
    scale = jnp.sqrt(jnp.sum(squares, axis=0, keepdims=True) / safe) / unit
  elif options.std == "none":
    scale, epsilon = jnp.ones_like(scale), 0.0
  if options.leave_one_out:
    centred = centred * (count / jnp.maximum(count - 1.0, 1.0))
  # A scale of 0 means that every deviation is 0 too: 0 / 1 instead of 0 / 0.
  scale = scale + epsilon
  advantage = centred / jnp.where(scale > 0, scale, 1.0)
  if options.clip:
    advantage = jnp.clip(advantage, -options.clip, options.clip)
  return jnp.where(mask, advantage, 0.0)


def policy_terms(
  log_prob: Float[Array, "T G P"],
  old_log_prob: Float[Array, "T G P"],
  advantage: Float[Array, "1 G P"],
  keep: Bool[Array, "T G P"],
  options: Options,
) -> tuple[tuple[Float[Array, "T G P"], ...], Float[Array, "T G P"]]:
  """(terms in the order of `STATISTICS`, d loss / d log_prob), element-wise.

  Masked elements add nothing, whatever they hold.
  """
  weight = keep.astype(jnp.float32)
  log_ratio = jnp.where(keep, log_prob - old_log_prob, 0.0)
  gain = jnp.where(keep, advantage, 0.0)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, options.low, options.high)
  loss = jnp.maximum(-gain * ratio, -gain * clipped)
  low = (gain < 0) & (ratio < options.low)
  high = (gain > 0) & (ratio > options.high)
  gradient = jnp.where(low | high, 0.0, -gain * ratio)
  terms = (
    loss,
    weight,
    ratio * weight,
    jnp.abs(log_ratio),
    _excess(log_ratio, ratio),
    low.astype(jnp.float32),
    high.astype(jnp.float32),
  )
  return terms, gradient


def _excess(x, exponential):
  """exp(x) - 1 - x; by its series near 0, where the difference cancels."""
  series = 0.0
  for n in range(9, 2, -1):
    series = (series + 1.0) * x / n
  series = (series + 1.0) * jnp.square(x) / 2
  return jnp.where(jnp.abs(x) < 0.5, series, exponential - 1.0 - x)


def run(
  signal: Float[Array, "G P"],
  mask: Float[Array, "G P"],
  scale: Float[Array, "1 P"],
  log_prob: Float[Array, "T G P"] | None,
  old_log_prob: Float[Array, "T G P"] | None,
  keep: Float[Array, "T G P"] | None,
  *,
  options: Options,
  with_gradient: bool,
) -> tuple[Array, ...]:
  """What the kernels return: (advantage [G, P], statistics [7, P], gradient).

  Statistics are returned with `log_prob`, the gradient [T, G, P] with
  `with_gradient`.
  """
  as_float32 = lambda x: x.astype(jnp.float32)
  valid = mask > 0
  advantage = credit(as_float32(signal), valid, scale, options)
  if log_prob is None:
    return (advantage,)
  counted = jnp.broadcast_to(valid, log_prob.shape)
  if keep is not None:
    counted &= keep > 0
  terms, gradient = policy_terms(
    as_float32(log_prob),
    as_float32(old_log_prob),
    advantage[None],
    counted,
    options,
  )
  statistics = jnp.stack([jnp.sum(x, axis=(0, 1)) for x in terms])
  return (advantage, statistics, gradient)[: 2 + with_gradient]
