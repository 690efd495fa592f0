"""Compositions in which one score depends on the support of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  applicable,
  require,
  safe_of,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import masked_mean


def tempered(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  reliability: str,
  dependence: float = 1.0,
) -> Signal:
  """Scores attenuated by the reliability of their evidence.

  R = sum_k w_k r_k ((1 - v) + v rho) over the other rewards, rho the reward that
  measures their reliability, in [0, 1], and v how much they depend on it.
  EVPV, https://arxiv.org/abs/2603.16253, of the steps of a reasoner's answer there,
  with rho the share of visual claims that hold; the shape of the gate is unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; not used for the reliability.
    reliability: name of the reward rho; clipped to [0, 1].
    dependence: v, in [0, 1].

  Returns:
    (signal, mask) as in `weighted_sum`. Without rho nothing is attenuated.

  Raises:
    UserError: the reliability is not a reward, or the only one, or a
      dependence outside [0, 1].
  """
  require(reliability, weights, "reliability")
  others = [name for name in weights if name != reliability]
  if not others:
    raise UserError(
      f'config.composition.reliability="{reliability}": there is no other reward'
      " that it could attenuate"
    )
  if not 0 <= dependence <= 1:
    raise UserError(
      f"config.composition.dependence={dependence}: it lies in [0, 1]"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  rho = jnp.clip(safe[reliability], 0.0, 1.0)
  rho = jnp.where(applicable(reliability, weights, mask), rho, 1.0)
  total = sum(weights[k] * safe[k] for k in others)
  signal = total * ((1 - dependence) + dependence * rho)
  return jnp.where(mask, signal, 0.0), mask


def bonus_if_consistent(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  base: str,
  consistency: str,
  bonus: float = 0.5,
  least: float = 0.1,
  margin: float = 0.0,
) -> Signal:
  """Good samples that are also consistent get a bonus.

  A sample is eligible if r_base > least and r_base >= its mean over the group; of
  these, those whose consistency is at least the mean over the eligible ones, less
  the margin, get r_base (1 + bonus). Wrong samples never do.
  GRPO-CARE, https://arxiv.org/abs/2506.16141, read in the authors' code, where the
  consistency is how likely an answer is to a slow average of the policy, at most
  .95, instead of a KL; margin 0 or .01.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; not used for these two rewards, others are added.
    base: name of the reward for correctness.
    consistency: name of the reward for consistency.
    bonus: share of the base that is added.
    least: the base has to exceed this.
    margin: how far below the mean still counts, 0 or above.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: names that are not rewards, one name for both, or a negative
      margin.
  """
  require(base, weights, "base")
  require(consistency, weights, "consistency")
  if base == consistency:
    raise UserError(
      f'config.composition.consistency="{consistency}": it is the base; name'
      " another reward"
    )
  if not (margin >= 0 and bonus >= 0):
    raise UserError(
      f"config.composition.margin={margin} and bonus={bonus}: both are 0 or above"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  base_score, consistency_score = safe[base], safe[consistency]
  mean = masked_mean(base_score, mask, axis=1, keepdims=True)
  eligible = mask & (base_score > least) & (base_score >= mean)
  bar = masked_mean(consistency_score, eligible, axis=1, keepdims=True) - margin
  gets_bonus = eligible & (consistency_score >= bar)
  other_sum = sum(
    weights[k] * safe[k] for k in weights if k not in (base, consistency)
  )
  signal = base_score * jnp.where(gets_bonus, 1 + bonus, 1.0) + other_sum
  return jnp.where(mask, signal, 0.0), mask


def tiers(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  thresholds: Sequence[float],
  increments: Sequence[float] = (),
) -> Signal:
  """Steps instead of a score: R = sum_k w_k sum_m a_m 1[r_k >= t_m].

  Coarse where differences are noise; growing increments amplify the top tiers, and
  a single tier is a pass mark.
  SSL, https://arxiv.org/abs/2601.22491, tiers of the distance to a target there;
  their number and their values are unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    thresholds: t, growing.
    increments: a, one for each; empty for m / sum m, which grow and add up to 1.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: thresholds that do not grow, or another number of increments.
  """
  limits, steps = _numbers(thresholds), _numbers(increments)
  if not limits or list(limits) != sorted(set(limits)):
    raise UserError(
      f"config.composition.thresholds={limits}: name one or more, each above the"
      " one before"
    )
  steps = steps or tuple(
    (m + 1) / sum(range(1, len(limits) + 1)) for m in range(len(limits))
  )
  if len(steps) != len(limits) or min(steps) < 0:
    raise UserError(
      f"config.composition.increments={steps}: {len(limits)} tiers take as many,"
      " 0 or above"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  level = lambda x: sum(
    a * (x >= t) for a, t in zip(steps, limits, strict=True)
  )
  total = sum(weights[k] * level(safe[k]) for k in weights)
  return jnp.where(mask, total, 0.0), mask


def _numbers(values: Any) -> tuple[float, ...]:
  """A tuple of several numbers, or of one."""
  rows = values if isinstance(values, Sequence) else (values,)
  return tuple(float(value) for value in rows)
