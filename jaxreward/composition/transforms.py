"""Compositions that transform scores before or while adding them."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  applicable,
  safe_of,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import largest, masked_mean, masked_std
from jaxreward.types import Array, ArrayLike

AGGREGATES = ("mean", "median", "worst", "mean_minus_std")


def tamed_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  threshold: str | float = "mean",
) -> Signal:
  """Weighted sum in which rewards of great variation become log(1 + r).

  h_k = std r_k / (mean r_k + 1e-6) over the batch; r_k becomes log(1 + r_k)
  where h_k is above the threshold. Rewards should be positive; negative ones are
  unchanged.
  PaCo-RL, https://arxiv.org/abs/2512.04784, read in the authors' code, whose
  default config does not use it.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    threshold: "mean" or "median" of h over the rewards, or a number.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: another threshold.
  """
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  spread = jnp.stack([
    masked_std(safe[k], mask) / (masked_mean(safe[k], mask) + 1e-6)
    for k in weights
  ])  # fmt: skip
  limit: Array | float
  if isinstance(threshold, str) and threshold in ("mean", "median"):
    limit = (jnp.mean if threshold == "mean" else jnp.median)(spread)
  else:
    try:
      limit = float(threshold)
    except ValueError:
      raise UserError(
        f'config.composition.threshold="{threshold}": expected "mean",'
        ' "median" or a number'
      ) from None
  signal = sum(
    weights[k] * jnp.where(spread[i] > limit, _log1p(safe[k]), safe[k])
    for i, k in enumerate(weights)
  )
  return jnp.where(mask, signal, 0.0), mask


def harmonic(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  floor: float = 1e-6,
) -> Signal:
  """Weighted harmonic mean, sum w / sum_k (w_k / r_k): the weakest decides.

  RPO, https://arxiv.org/abs/2407.12164, of the similarities to a subject and to
  the words, (cos + 1) / 2 each, weights lambda and 1 - lambda.

  Args:
    scores: name -> raw scores in [0, 1]; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight, 0 or above.
    floor: smaller scores are raised to this.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: a floor that is not positive.
  """
  if not floor > 0:
    raise UserError(f"config.composition.floor={floor}: it must be above 0")
  for name, weight in weights.items():
    if isinstance(weight, int | float) and weight < 0:
      raise UserError(
        f"config.rewards.{name}.weight={weight:g}: a harmonic mean takes weights"
        " of 0 or above; negate the reward itself"
      )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  weight_sum = sum(weights.values())
  inverse = sum(weights[k] / jnp.maximum(safe[k], floor) for k in weights)
  inverse = jnp.broadcast_to(jnp.asarray(inverse), mask.shape)
  mean = weight_sum / jnp.where(inverse > 0, inverse, 1.0)
  return jnp.where(mask, mean, 0.0), mask


def ensemble(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  aggregate: str = "mean_minus_std",
  strength: float = 1.0,
  centre: bool = True,
) -> Signal:
  """Conservative aggregate of an ensemble of reward models.

  Members m_k = w_k r_k, less their mean over the group; then their mean, median,
  worst, or mean less `strength` standard deviations.
  Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244: a model trained on
  comparisons leaves its offset free, hence the centring, here over the group
  (unverified: theirs is over samples of the reference). Errors shared by
  all members remain.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight, which brings the members to one scale; members
      that are not applicable in a row are skipped there.
    aggregate: one of `AGGREGATES`.
    strength: of the deviation, 0 or above.
    centre: whether a member's mean over the group is subtracted.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: an unknown aggregate, or a negative strength.
  """
  if aggregate not in AGGREGATES:
    raise UserError(
      f'config.composition.aggregate="{aggregate}": it is one of'
      f" {', '.join(AGGREGATES)}"
    )
  if not strength >= 0:
    raise UserError(
      f"config.composition.strength={strength}: it must be 0 or above"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  members = jnp.stack([weights[k] * safe[k] for k in weights])
  applies = jnp.stack([applicable(k, weights, mask) for k in weights])
  if centre:
    inside = applies & mask
    members = members - masked_mean(members, inside, axis=2, keepdims=True)
  signal = _aggregate(members, applies, aggregate, strength)
  usable = mask & applies.any(0)
  return jnp.where(usable, signal, 0.0), usable


def _aggregate(
  members: Float[ArrayLike, "K P G"],
  applies: ArrayLike,
  aggregate: str,
  strength: float,
) -> Float[Array, "P G"]:
  if aggregate == "worst":
    return -largest(jnp.where(applies, -jnp.asarray(members), -jnp.inf), 0)
  if aggregate == "median":
    return jnp.nanmedian(jnp.where(applies, members, jnp.nan), axis=0)
  mean = masked_mean(members, applies, axis=0)
  if aggregate == "mean":
    return mean
  return mean - strength * masked_std(members, applies, axis=0)


def check_weights(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  passed: float = 0.5,
  alpha: float = 2.0,
  sigma: float = 0.1,
  delta: float = 1e-6,
  beta: float = 1.0,
) -> Signal:
  """Checks weighted by difficulty within the group, plus passing all.

  p_ij = 1 where sample i passes check j, s_ij >= passed; rho_j = mean_i p_ij,
  N_j = sum_j' exp(-(rho_j - rho_j')^2 / (2 sigma^2)),
  R_i = 1[all passed] + beta sum_j w_j p_ij exp(-alpha rho_j) / (N_j + delta):
  many checks that are equally easy weigh no more than one.
  VeRPO, https://arxiv.org/abs/2601.03525, with checks of an image instead of
  unit tests; alpha, sigma, delta and beta are unverified. Follow it with
  `dict(name="group", std="none")`, as they do.

  Args:
    scores: name -> score of a check; not finite where it failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight of a check; 0 where it is not applicable.
    passed: smallest score that passes a check.
    alpha: how much less an easy check weighs.
    sigma: width within which pass rates count as similar, above 0.
    delta: added to N.
    beta: weight of the weighted checks.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: a sigma that is not positive.
  """
  if not sigma > 0:
    raise UserError(f"config.composition.sigma={sigma}: it must be above 0")
  mask = valid_of(scores, masks, weights)
  applies = jnp.stack([applicable(k, weights, mask) for k in weights])
  passes = jnp.stack([jnp.asarray(scores[k]) >= passed for k in weights]) & mask
  # [K, P]: pass rates within the group, and where the check applies.
  rate = masked_mean(passes.astype(jnp.float32), applies & mask, axis=2)
  is_check = jnp.any(applies & mask, axis=2)
  similarity = jnp.exp(
    -jnp.square(rate[:, None] - rate[None]) / (2 * jnp.square(sigma))
  )
  similar_count = jnp.sum(jnp.where(is_check[None], similarity, 0.0), axis=1)
  weight = jnp.exp(-alpha * rate) / (similar_count + delta)
  row_weights = jnp.stack(
    [jnp.broadcast_to(weights[k], mask.shape) for k in weights]
  )
  local = jnp.sum(row_weights * weight[..., None] * passes * applies, axis=0)
  all_passed = jnp.all(passes | ~applies, axis=0)
  return jnp.where(mask, all_passed + beta * local, 0.0), mask


def _log1p(score: Array) -> Array:
  return jnp.where(score > 0, jnp.log1p(jnp.maximum(score, 0.0)), score)
