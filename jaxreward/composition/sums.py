"""Many scores into one signal.

A score that is not finite failed: its sample is masked, never counted as 0.
Scores without a weight (held-out rewards) are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  group_score,
  mask_of,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import Mean, masked_mean, masked_std
from jaxreward.types import Array, ArrayLike

# (score [P, G], mask, temperature=) -> win rates [P, G]
WinRate = Callable[..., Array]


def weighted_sum(scores: Scores, masks: Masks, weights: Weights) -> Signal:
  """Sum of raw scores, sum_k w_k r_k.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; the scores that take part.

  Returns:
    (signal, mask): a sample stays only when all its weighted scores are
    valid; the signal is 0 elsewhere.
  """
  mask = valid_of(scores, masks, weights)
  total = sum(
    weight * jnp.where(mask, scores[name], 0.0)
    for name, weight in weights.items()
  )
  finite = jnp.isfinite(total)  # finite scores may have no finite sum
  return jnp.where(finite, total, 0.0), mask & finite


def lower_bound(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  stds: Scores,
  beta: float = 1.0,
) -> Signal:
  """Lower confidence bound of the sum, sum_k w_k r_k - beta |w_k| s_k.

  A policy gains nothing where a reward model is uncertain
  (Coste et al., 2023, arXiv 2310.02743, section 3, with the deviation instead of
  the variance of an ensemble).

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; the scores that take part.
    stds: name -> standard deviation of each score; 0 for rewards without one.
    beta: number of deviations subtracted.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: a negative beta, or no reward with a standard deviation.
  """
  if not beta >= 0:
    raise UserError(f"composition.beta={beta}: it must be 0 or above")
  unsure = [name for name in weights if name in stds]
  if not unsure:
    raise UserError(
      'config.composition.name="lower_bound" reads how unsure a reward is, which'
      f" {', '.join(weights)} does not say; take a reward that returns"
      " Scores(value, std), such as a reward model with a Gaussian head"
    )
  total, mask = weighted_sum(scores, masks, weights)
  spread = sum(jnp.abs(weights[name]) * stds[name] for name in unsure)
  total = jnp.where(mask, total - beta * jnp.asarray(spread), 0.0)
  finite = jnp.isfinite(total)
  return jnp.where(finite, total, 0.0), mask & finite


def separate(
  scores: Scores, masks: Masks, weights: Weights
) -> tuple[dict[str, Float[Array, "P G"]], Bool[Array, "P G"]]:
  """Every score by its name, for separate credit per reward.

  Scores of weight 0 are dropped. The weight of a reward scales its advantage, which
  depends on its scores only.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; the scores that take part.

  Returns:
    ({name: signal}, mask): a sample stays only when all its scores are valid;
    the signals are 0 elsewhere.
  """
  mask = valid_of(scores, masks, weights)
  names = apart(weights)
  return {name: jnp.where(mask, scores[name], 0.0) for name in names}, mask


def apart(weights: Mapping[str, object]) -> tuple[str, ...]:
  """Names of the scores that `separate` keeps: those with a weight."""
  is_zero = lambda w: isinstance(w, float | int) and w == 0
  return tuple(name for name, weight in weights.items() if not is_zero(weight))


def advantage_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  epsilon: float = 1e-6,
  sample_std: bool = False,
) -> Signal:
  """Sum of each score's own group advantage, sum_k w_k A_k.

  A_k = (r_k - mean_G r_k) / (std_G r_k + epsilon): a weight then means the
  same for every score, whatever its scale or offset, and a score that is
  constant over a group drops out there. Follow it with an advantage that does
  not divide again, `dict(name="group", std="none")`.

  The published codes add 1e-8 to 1e-4 to the standard deviation; the default
  is small so that rescaling a score hardly shows.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; the scores that take part.
    epsilon: added to each group's standard deviation.
    sample_std: whether variances are over n - 1, as in most published codes.

  Returns:
    (signal, mask) as in `weighted_sum`; the statistics are over the samples
    that stay.
  """
  mask = valid_of(scores, masks, weights)
  total = sum(
    weight * group_score(scores[name], mask, epsilon, sample_std=sample_std)
    for name, weight in weights.items()
  )
  return jnp.asarray(total), mask


def gdpo(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  epsilon: float = 1e-4,
  sample_std: bool = False,
) -> Signal:
  """`advantage_sum`, whitened over the batch (GDPO).

  (S - mean S) / (std S + epsilon) over all valid samples keeps the size of
  the signal independent of the number of scores (Liu et al. 2026, group
  reward-decoupled normalisation). Follow it with
  `dict(name="group", std="none")`. The authors' variances are over n - 1, with
  `sample_std` those of groups and batch.
  """
  total, mask = advantage_sum(
    scores, masks, weights, epsilon=epsilon, sample_std=sample_std
  )
  centred = total - masked_mean(total, mask)
  scale = masked_std(total, mask)
  if sample_std:
    count = jnp.sum(mask)
    scale = scale * jnp.sqrt(count / jnp.maximum(count - 1, 1))
  scale = scale + epsilon
  return jnp.where(mask, centred / jnp.where(scale > 0, scale, 1), 0.0), mask


def win_rate(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  temperature: float = 0.0,
  rate: WinRate | None = None,
) -> Signal:
  """Sum of each score's win rate in its group, sum_k w_k W_k.

  W_k of a sample is the share of the others of its group that score lower,
  ties as one half: a score then counts by its order alone, and a large
  difference between two samples teaches no more than a small one (Pref-GRPO,
  Wang et al., 2025, arXiv 2508.20751).

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; the scores that take part.
    temperature: above 0, the mean of sigmoid((s_i - s_j) / temperature) instead
      of the share.
    rate: replaces `group_win_rate`, such as a kernel.

  Returns:
    (signal, mask) as in `weighted_sum`; rates are over the samples that stay.

  Raises:
    UserError: a negative temperature.
  """
  if not temperature >= 0:
    raise UserError(
      f"composition.temperature={temperature}: it must be 0 or above"
    )
  mask = valid_of(scores, masks, weights)
  rate = group_win_rate if rate is None else rate
  total = sum(
    weight
    * rate(jnp.where(mask, scores[name], 0.0), mask, temperature=temperature)
    for name, weight in weights.items()
  )
  return jnp.asarray(total), mask


def group_win_rate(
  score: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  *,
  temperature: float,
) -> Float[Array, "P G"]:
  """Mean chance to beat another sample of the group; 0 where masked.

  One half for a sample that has no other. Memory grows with G^2.
  """
  d = score[:, :, None] - score[:, None, :]
  wins = (
    jax.nn.sigmoid(d / temperature)
    if temperature
    else 0.5 * (1.0 + jnp.sign(d))
  )
  others = mask[:, None, :] & ~jnp.eye(score.shape[1], dtype=bool)
  count = others.sum(-1)
  share = jnp.where(others, wins, 0.0).sum(-1) / jnp.maximum(count, 1)
  return jnp.where(mask, jnp.where(count > 0, share, 0.5), 0.0)


def failures(scores: Scores, masks: Masks) -> dict[str, Mean]:
  """Share of failed samples per score, `{"failed/<name>": Mean}`.

  A sample that was already masked out (padding) is not counted.
  """
  return {
    f"failed/{name}": Mean.of(~jnp.isfinite(score), mask_of(name, masks))
    for name, score in scores.items()
  }
