"""Credit relative to the other samples of the same prompt.

Every function here returns constants: no gradient flows through an advantage.
Rows are prompts, columns are the members of a prompt's group; keep the group
axis on one device, or each part would be compared with its own mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest, require_not_negative
from jaxreward.numerics import Mean, masked_mean, masked_std
from jaxreward.types import Array, ArrayLike


def check_group_size(group_size: int) -> None:
  """Raises `UserError` unless a prompt has at least two samples to compare."""
  if group_size < 2:
    raise UserError(
      f"rollout.group is {group_size}, but an advantage compares the samples "
      "of one prompt with each other: use 2 or more (8 to 24 is usual)."
    )


def require_reward(
  field: str, name: str, scores: Mapping[str, ArrayLike]
) -> None:
  """Raises `UserError` unless an option names one of the rewards."""
  if name not in scores:
    raise UserError(
      f'config.advantage.{field}="{name}": there is no reward of this'
      f" name{nearest(name, scores)}; there are {', '.join(scores)}"
    )


def group(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  *,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G"]:
  """Deviation from the prompt's mean, in standard deviations.

  A = clip((r - mean_G r) / (std r + epsilon), -clip, clip), with the
  statistics over unmasked members. A group of equal rewards, and a group with
  one member left, gets exactly zero.

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    std: "group" divides by the prompt's own standard deviation (Shao et al.
      2024, https://arxiv.org/abs/2402.03300, eq. 3), "batch" by that of all
      rewards in the batch (the default of the Flow-GRPO code), "none" by 1.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.
  """
  shifted = _from_minimum(signal, mask, axis=1)
  centred = shifted - masked_mean(shifted, mask, axis=1, keepdims=True)
  return _finish(centred, signal, mask, std, epsilon, clip)


def leave_one_out(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  *,
  std: str = "none",
  epsilon: float = 1e-4,
  clip: float | None = None,
) -> Float[Array, "P G"]:
  """Deviation from the mean of the *other* members (RLOO).

  A_i = r_i - mean_{j != i} r_j = n / (n - 1) (r_i - mean r), an unbiased
  baseline (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, eq. 8).
  The arguments are those of `group`; the paper does not divide.

  Returns:
    advantage, 0 where masked or where no other member is left.
  """
  shifted = _from_minimum(signal, mask, axis=1)
  count = jnp.sum(mask, axis=1, keepdims=True)
  centred = shifted - masked_mean(shifted, mask, axis=1, keepdims=True)
  centred = centred * count / jnp.maximum(count - 1, 1)
  return _finish(centred, signal, mask, std, epsilon, clip)


def whitened(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  *,
  epsilon: float = 1e-4,
  clip: float | None = None,
) -> Float[Array, "P G"]:
  """Deviation from the mean of the whole iteration, in standard deviations.

  (r - mean r) / (std r + epsilon): the target of a critic, which
  learns the difficulty of prompts itself. The arguments are those of `group`.
  """
  shifted = _from_minimum(signal, mask, axis=None)
  centred = shifted - masked_mean(shifted, mask)
  return _finish(centred, signal, mask, "batch", epsilon, clip)


def zero_variance_share(
  signal: Float[ArrayLike, "P G"], mask: Bool[ArrayLike, "P G"]
) -> Mean:
  """Share of prompts whose valid rewards are all equal, so without a signal.

  Prompts without any valid sample do not count.
  """
  spread = jnp.max(_from_minimum(signal, mask, axis=1), axis=1)
  return Mean.of(spread == 0, jnp.any(mask, axis=1))


def _from_minimum(signal, mask, axis):
  """Signal minus its smallest valid entry, 0 where masked.

  The standard deviation and deviations from the mean are unchanged, but equal
  rewards become exact zeros in spite of rounding, and a large common offset costs
  no precision.
  """
  signal = jnp.asarray(signal)
  low = jnp.min(signal, axis=axis, keepdims=True, where=mask, initial=jnp.inf)
  return jnp.where(mask, signal - jnp.where(mask, low, 0.0), 0.0)


def _finish(centred, signal, mask, std, epsilon, clip):
  """Divides by the scale, clips, and zeroes masked entries."""
  require_not_negative("advantage.", epsilon=epsilon, clip=clip)
  if std == "group":
    scale = masked_std(_from_minimum(signal, mask, axis=1), mask, 1, True)
  elif std == "batch":
    scale = masked_std(_from_minimum(signal, mask, axis=None), mask)
  elif std == "none":
    scale, epsilon = 1.0, 0.0
  else:
    raise UserError(
      f'advantage.std is "{std}"; it must be "group", "batch" or "none".'
    )
  # A scale of 0 means that every deviation is 0 too: 0 / 1 instead of 0 / 0.
  scale = jnp.where(scale + epsilon > 0, scale + epsilon, 1.0)
  advantage = centred / scale
  if clip:
    advantage = jnp.clip(advantage, -clip, clip)
  return jax.lax.stop_gradient(jnp.where(mask, advantage, 0.0))
