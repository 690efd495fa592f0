"""Compositions that compare a sample with those of the initial policy.

They take `references` by keyword: {name: [P, M]}, scores of M samples of the same
prompt from the initial policy, sampled once.
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
  safe_of,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import masked_mean
from jaxreward.types import Array, ArrayLike

References = Mapping[str, Float[ArrayLike, "P M"]]


def preference_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  references: References,
  scale: float = 1.0,
) -> Signal:
  """The probability of being preferred to a sample of the initial policy.

  R = sum_k w_k mean_m sigmoid(scale (r_k - r_ref,k,m)): bounded, steepest around
  the initial policy and flat far above, where the reward is least reliable.
  PAR, https://arxiv.org/abs/2502.18770, scale 1 for rewards that are log-odds and
  10 references, read in the authors' code.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    references: name -> scores of the initial policy; failed ones are ignored.
    scale: brings differences of rewards to log-odds, above 0.

  Returns:
    (signal, mask) as in `weighted_sum`; a prompt without a reference is masked.

  Raises:
    UserError: a scale that is not positive.
  """
  _require_positive(scale)
  win = lambda gap: jax.nn.sigmoid(scale * gap)
  return _mean_win(scores, masks, weights, references, win)


def log_sigmoid_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  references: References,
  quantile: float = 0.85,
  scale: float = 1.0,
) -> Signal:
  """The log-probability of being good on every reward at once.

  R = sum_k w_k log sigmoid(scale (r_k - q_k)), q_k a high quantile of the initial
  policy's scores for the prompt: high rewards saturate, and the weakest one drives
  learning.
  Wang et al. 2024, https://arxiv.org/abs/2402.00742, the LSC transform; 64 samples
  a prompt for the quantile are unverified, here they are a group.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    references: name -> scores of the initial policy; failed ones are ignored.
    quantile: of them, in [0, 1].
    scale: brings differences of rewards to log-odds, above 0.

  Returns:
    (signal, mask) as in `weighted_sum`; a prompt without a reference is masked.

  Raises:
    UserError: a quantile outside [0, 1], or a scale that is not positive.
  """
  _require_positive(scale)
  if not 0 <= quantile <= 1:
    raise UserError(
      f"config.composition.quantile={quantile}: it lies in [0, 1]"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  total = jnp.zeros(mask.shape, jnp.float32)
  for name, weight in weights.items():
    there, reference = _finite(references, name)
    has_reference = there.any(1, keepdims=True)
    mask = mask & has_reference
    rows = jnp.where(there, reference, jnp.nan)
    level = jnp.nanquantile(
      jnp.where(has_reference, rows, 0.0), quantile, axis=1, keepdims=True
    )
    total += weight * jax.nn.log_sigmoid(scale * (safe[name] - level))
  return jnp.where(mask, total, 0.0), mask


def percentile_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  references: References,
) -> Signal:
  """The percentile of each score among those of the initial policy.

  R = sum_k w_k share of the references below r_k, ties as one half:
  `preference_sum` at an endless scale. It reads the order alone, and nothing is
  gained beyond the best reference. The quantile rewards of QRPO,
  https://arxiv.org/abs/2507.08068, without its loss.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    references: name -> scores of the initial policy; failed ones are ignored.

  Returns:
    (signal, mask) as in `weighted_sum`; a prompt without a reference is masked.
  """
  win = lambda gap: (1 + jnp.sign(gap)) / 2
  return _mean_win(scores, masks, weights, references, win)


def _mean_win(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  references: References,
  win: Callable[[Array], Array],
) -> Signal:
  """sum_k w_k mean_m win(r_k - r_ref,k,m), and where it is valid."""
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  total = jnp.zeros(mask.shape, jnp.float32)
  for name, weight in weights.items():
    there, reference = _finite(references, name)
    mask = mask & there.any(1, keepdims=True)
    wins = win(safe[name][:, :, None] - reference[:, None, :])
    total += weight * masked_mean(wins, there[:, None, :], axis=2)
  return jnp.where(mask, total, 0.0), mask


def _finite(
  references: References, name: str
) -> tuple[Bool[Array, "P M"], Float[Array, "P M"]]:
  """(whether each reference is valid, scores with 0 elsewhere)."""
  rows = jnp.asarray(references[name], jnp.float32)
  there = jnp.isfinite(rows)
  return there, jnp.where(there, rows, 0.0)


def _require_positive(scale: float) -> None:
  if not scale > 0:
    raise UserError(f"config.composition.scale={scale}: it must be above 0")
