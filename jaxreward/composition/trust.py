"""Compositions that decide how far, or where, a score is to be trusted."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Int

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  applicable,
  group_score,
  order_of,
  require,
  safe_of,
  several,
  valid_of,
)
from jaxreward.errors import UserError, require_not_negative
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import ArrayLike


def trusted_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  iteration: Int[ArrayLike, ""] | int,
  outcome: str,
  passed: float = 0.5,
  ramp: int = 50,
) -> Signal:
  """The outcome, plus other rewards as far as they agree with it.

  R = w_o r_o + min(1, n / ramp) sum_k w_k tau_k r_k in iteration n, with
  tau_k = min(1, exp(mean r_k of the group's passed - mean of its failed)), and 1
  where none passed or none failed.
  EmotionThinker, https://arxiv.org/abs/2601.15668; tau is that of the
  Trust-GRPO family, and both its form and the ramp are unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    iteration: n, from 0.
    outcome: name of the reward that says what is right.
    passed: smallest outcome that is right.
    ramp: iterations until the others count in full; 0 for at once.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: the outcome is not a reward, or a ramp below 0.
  """
  require(outcome, weights, "outcome")
  if not ramp >= 0:
    raise UserError(f"config.composition.ramp={ramp}: it must be 0 or above")
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  right = (safe[outcome] >= passed) & mask
  wrong = mask & ~right
  share = jnp.minimum(1.0, jnp.asarray(iteration) / ramp) if ramp else 1.0
  total = weights[outcome] * safe[outcome]
  for name in weights:
    if name == outcome:
      continue
    gap = _group_mean(safe[name], right) - _group_mean(safe[name], wrong)
    has_both = right.any(1, keepdims=True) & wrong.any(1, keepdims=True)
    trust = jnp.where(has_both, jnp.exp(jnp.minimum(gap, 0.0)), 1.0)
    total = total + share * weights[name] * trust * safe[name]
  return jnp.where(mask, total, 0.0), mask


def staged(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  iteration: Int[ArrayLike, ""] | int,
  iterations: int,
  order: Any,
  at: Any,
) -> Signal:
  """One reward after another, each over the prompts it applies to.

  R = w_s r_s in stage s, the number of entries of `at` that are reached; prompts to
  which r_s does not apply (`rewards.NAME.kinds`) are left out. All rewards are
  scored throughout, so that their curves show whether a stage undoes another. Skywork
  UniPic 2.0's progressive dual-task reinforcement, https://arxiv.org/abs/2509.04548:
  one policy draws and edits, a stage for each; order, rewards and lengths are
  unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    iteration: from 0.
    iterations: of the run.
    order: every reward, in the order of its stage.
    at: the first iterations of the stages but the first, growing.

  Returns:
    (signal, mask) as in `weighted_sum`; only the stage's reward need be valid.

  Raises:
    UserError: an order that does not name every reward once, iterations that do
      not grow, are too many or too few, or a stage that the run does not reach.
  """
  order, starts = order_of(order, weights), several(at)
  grows = all(a < b for a, b in itertools.pairwise((0, *map(float, starts))))
  if len(starts) != len(order) - 1 or not grows:
    raise UserError(
      f"config.composition.at={starts}: {len(order)} rewards take"
      f" {len(order) - 1}, each larger than the one before and than 0"
    )
  if starts and float(starts[-1]) >= iterations:
    raise UserError(
      f"config.composition.at={starts}: a run of config.align.iterations="
      f"{iterations} ends before its last stage begins"
    )
  stage = sum(jnp.asarray(iteration) >= float(start) for start in starts)
  signals, valid = [], []
  for name in order:
    weight = {name: weights[name]}
    mask = valid_of(scores, masks, weight) & applicable(
      name, weight, scores[name]
    )
    signals.append(weights[name] * safe_of(scores, mask, weight)[name])
    valid.append(mask)
  at_stage = lambda rows: jnp.stack(rows)[stage]
  return at_stage(signals), at_stage(valid)


def prerequisite(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  check: str,
  least: float = 0.5,
  epsilon: float = 1e-4,
) -> Signal:
  """The other rewards teach a prompt only once its check is mostly passed.

  A = w_c z(r_c) + g sum_k w_k z(r_k), g = 1 where the group's mean check is at
  least `least`, z within the group. Follow it with
  `dict(name="group", std="none")`.
  PEARL, https://arxiv.org/abs/2511.18437, where the check is a list of questions
  about an image, and g stops the update of the answers; `least` is unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    check: name of the reward that comes first.
    least: mean check of a group from which the others count.
    epsilon: added to each group's standard deviation.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: the check is not a reward.
  """
  require(check, weights, "check")
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  z = {k: group_score(safe[k], mask, epsilon) for k in weights}
  is_open = _group_mean(safe[check], mask) >= least
  rest = sum(weights[k] * z[k] for k in weights if k != check)
  signal = weights[check] * z[check] + jnp.where(is_open, rest, 0.0)
  return jnp.where(mask, signal, 0.0), mask


def whole_and_parts(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  whole: str,
) -> Signal:
  """A reward of the whole, plus the mean of those of its parts.

  R = w r_whole + mean_k w_k r_k over the parts that are applicable to the prompt,
  so that a prompt with many parts earns no more than one with few.
  Mixed-grained rewards, https://arxiv.org/abs/2506.09084, of a page and its items
  there; the weight of the parts is unverified. There a part's reward goes to its
  own tokens; here all of a sample gets it.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; 0 where a part is not applicable.
    whole: name of the reward of the whole.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: the whole is not a reward.
  """
  require(whole, weights, "whole")
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  signal = weights[whole] * safe[whole]
  parts = [name for name in weights if name != whole]
  if parts:
    applies = jnp.stack([applicable(k, weights, mask) for k in parts])
    earned = jnp.stack([weights[k] * safe[k] for k in parts])
    signal = signal + masked_mean(earned, applies, axis=0)
  return jnp.where(mask, signal, 0.0), mask


def routed(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  order: Any,
  epsilon: float = 1e-4,
) -> Signal:
  """Of several rewards the first that is applicable, in units of its own spread.

  R = w_k (r_k - mean r_k) / (std r_k + epsilon) with k the first of `order` whose
  weight is not 0 for the prompt, statistics over the samples that it scores: an
  exact rule where there is one, and a learned reward elsewhere.
  Hybrid rewards, https://arxiv.org/abs/2510.05283; their choice by confidence and
  all constants are unverified.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; 0 where a reward is not applicable.
    order: names, the one to be preferred first.
    epsilon: added to the standard deviations.

  Returns:
    (signal, mask) as in `weighted_sum`; a prompt without any is masked.

  Raises:
    UserError: an order of other names than those of the rewards.
  """
  require_not_negative("composition.", epsilon=epsilon)
  order = order_of(order, weights)
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  total = jnp.zeros(mask.shape, jnp.float32)
  is_free = mask
  for name in order:
    pool = is_free & applicable(name, weights, mask)
    centred = safe[name] - masked_mean(safe[name], pool)
    scale = masked_std(safe[name], pool) + epsilon
    z = centred / jnp.where(scale > 0, scale, 1.0)
    total = jnp.where(pool, weights[name] * z, total)
    is_free = is_free & ~pool
  return jnp.where(mask & ~is_free, total, 0.0), mask & ~is_free


def _group_mean(score, mask):
  return masked_mean(score, mask, axis=1, keepdims=True)
