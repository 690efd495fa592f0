"""Compositions in which one score gates the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  applicable,
  order_of,
  require,
  safe_of,
  several,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import masked_mean, masked_std


def base_and_bonus(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  base: str,
  floor: float | None = None,
) -> Signal:
  """The other rewards scale the base: R = b (w_b + sum w_k r_k) / sum w.

  With scores in [0, 1] the signal is at most b, so that a pretty image of
  something else, or an unedited copy, gets no reward.
  FIRM, https://arxiv.org/abs/2603.12247: the form CME of the authors' rewards for
  edits, weights .6 and .4; for generation they take .4 and .6.

  Args:
    scores: name -> raw scores in [0, 1]; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight, that of the base included.
    base: name of the reward that the others scale.
    floor: at or below this base value the others add nothing; None for no floor.

  Returns:
    (signal in [0, 1], mask) as in `weighted_sum`.

  Raises:
    UserError: the base is not a reward.
  """
  require(base, weights, "base")
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  weight_sum = sum(weights.values())
  bonus = sum(weights[k] * safe[k] for k in weights if k != base)
  if floor is not None:
    bonus = jnp.where(safe[base] > floor, bonus, 0.0)
  share = (weights[base] + bonus) / jnp.where(weight_sum > 0, weight_sum, 1.0)
  signal = jnp.clip(safe[base] * share, 0.0, 1.0)
  return jnp.where(mask, signal, 0.0), mask


def gated_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  gates: Any,
  penalty: float = 0.0,
  penalty_each: float = 1.0,
) -> Signal:
  """The weighted sum if every gate is passed, else a penalty.

  R = sum_k w_k r_k over the other rewards if s_j >= tau_j for all gates j, else
  -(penalty + penalty_each n) with n the gates that failed. With rewards that are
  not negative, no sample that fails a gate outranks one that passes all.
  Gate, then optimise: SearchLLM, https://arxiv.org/abs/2603.10473; the penalty's
  form and size are unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; not used for gates.
    gates: name -> threshold tau.
    penalty: of a sample that fails any gate.
    penalty_each: added for each gate it fails.

  Returns:
    (signal, mask) as in `weighted_sum`; a gate that is not applicable in a row
    is passed.

  Raises:
    UserError: gates that are not rewards, no gates, or no other reward.
  """
  limits = _named(gates, "gates")
  for name in limits:
    require(name, weights, "gates")
  others = [name for name in weights if name not in limits]
  if not limits or not others:
    raise UserError(
      f"config.composition.gates={limits}: name one reward or more, and leave"
      " one that is optimised where they are passed"
    )
  if not (penalty >= 0 and penalty_each >= 0 and penalty + penalty_each > 0):
    raise UserError(
      f"config.composition.penalty={penalty} and penalty_each={penalty_each}:"
      " both are 0 or above, and not both 0"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  failed = sum(
    jnp.where((safe[k] < tau) & applicable(k, weights, mask), 1.0, 0.0)
    for k, tau in limits.items()
  )
  total = sum(weights[k] * safe[k] for k in others)
  signal = jnp.where(failed > 0, -(penalty + penalty_each * failed), total)
  return jnp.where(mask, signal, 0.0), mask


def lexicographic(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  order: Any,
  thresholds: Any,
) -> Signal:
  """A cascade: R = w_1 r_1 + 1[r_1 >= t_1] (w_2 r_2 + 1[r_2 >= t_2] (...)).

  A level counts only if all earlier ones are met; with rewards in [0, 1] and
  weights of 1, a sample that fails a level stays below those that pass it where
  t_i >= 1 - t_i.
  OptiAgent, https://arxiv.org/abs/2602.23761, whose thresholds are unverified;
  follow it with `dict(name="group", std="none")`, as they do.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    order: every reward, in the order of the cascade.
    thresholds: t of all levels but the last.

  Returns:
    (signal, mask) as in `weighted_sum`. A level that is not applicable is passed.

  Raises:
    UserError: an order that does not name every reward once, or a wrong number
      of thresholds.
  """
  order, limits = order_of(order, weights), several(thresholds)
  if len(limits) != len(order) - 1:
    raise UserError(
      f"config.composition.thresholds={limits}: {len(order)} rewards take"
      f" {len(order) - 1}, one for each level but the last"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  signal = weights[order[-1]] * safe[order[-1]]
  for name, limit in zip(order[-2::-1], limits[::-1], strict=True):
    is_met = (safe[name] >= limit) | ~applicable(name, weights, mask)
    signal = weights[name] * safe[name] + jnp.where(is_met, signal, 0.0)
  return jnp.where(mask, signal, 0.0), mask


def mastered_first(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  base: str,
  threshold: float = 1.0,
  share: float = 0.2,
  strength: float = 0.6,
) -> Signal:
  """The other rewards count only for the best-solved prompts.

  Success is r_base >= threshold. A sample gets 1 for success and 0 else; in the
  ceil(share P) prompts with most success it gets, where successful,
  1 - strength sigmoid(-z), with z the weighted sum of the other rewards in
  standard deviations from the mean over the prompt's successful samples.
  GRPO-lambda, https://arxiv.org/abs/2505.18086, with a secondary reward instead of
  minus the length; share .2 is published, strength is unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; not used for the base.
    base: name of the reward that defines success.
    threshold: of success.
    share: of the prompts of an iteration, in [0, 1].
    strength: the most that the secondary reward can subtract, in [0, 1).

  Returns:
    (signal in [0, 1], mask) as in `weighted_sum`.

  Raises:
    UserError: the base is not a reward, or a number is out of range.
  """
  require(base, weights, "base")
  if not (0 <= share <= 1 and 0 <= strength < 1):
    raise UserError(
      f"config.composition.share={share} and strength={strength}: the first lies"
      " in [0, 1], the second in [0, 1)"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  success = (safe[base] >= threshold) & mask
  count = math.ceil(share * len(mask))
  rate = masked_mean(success.astype(jnp.float32), mask, axis=1)
  rate = jnp.where(mask.any(1), rate, -1.0)
  best = jnp.argsort(-rate, stable=True)[:count]
  is_best = jnp.zeros(len(mask), bool).at[best].set(True)[:, None]
  second = sum(weights[k] * safe[k] for k in weights if k != base)
  second = jnp.broadcast_to(jnp.asarray(second, jnp.float32), mask.shape)
  mean, std = (f(second, success, 1, True) for f in (masked_mean, masked_std))
  z = jnp.where(std > 0, (second - mean) / jnp.where(std > 0, std, 1.0), 0.0)
  shaped = jnp.where(is_best, 1 - strength * jax.nn.sigmoid(-z), 1.0)
  return jnp.where(success, shaped, 0.0), mask


def _named(values: Any, field: str) -> dict[str, float]:
  if not isinstance(values, Mapping):
    raise UserError(
      f"config.composition.{field}={values}: expected a threshold for each name,"
      " such as dict(clean=0.5)"
    )
  return {str(name): float(value) for name, value in values.items()}
