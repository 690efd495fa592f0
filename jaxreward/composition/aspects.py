"""Compositions of the aspects that a judge of edits scores apart."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  applicable,
  mask_of,
  require,
  safe_of,
  several,
  valid_of,
)
from jaxreward.errors import UserError, require_not_negative, require_positive
from jaxreward.numerics import masked_mean, safe_sqrt
from jaxreward.types import Array

AVERAGES = ("last", "first")


def viescore(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  semantic: Any,
  quality: Any,
  passes: int = 1,
  average: str = "last",
) -> Signal:
  """The weakest semantic aspect times the weakest aspect of quality, rooted.

  O = sqrt(min_s w_s r_s min_q w_q r_q) over the aspects that are applicable. Of
  several passes of a judge, O is the mean of theirs ("last"), or the root of the
  product of their mean minima ("first"), which is never smaller.
  EditScore, https://arxiv.org/abs/2509.23909, read in the authors' code, whose
  scores are from 0 to 10 and whose answers without a number are the middle of the
  scale; here they fail. Semantic aspects there are whether an edit follows the
  words and preserves the rest, those of quality naturalness and freedom of
  artefacts. VIEScore, https://arxiv.org/abs/2312.14867.

  Args:
    scores: name -> raw scores, 0 or above; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight, which brings the aspects to one scale; 0 where one is
      not applicable.
    semantic: names of aspects, or one name.
    quality: names of the others.
    passes: of the judge; with 2 or more the reward of aspect a in pass k, from 1, is
      called a_k.
    average: one of `AVERAGES`.

  Returns:
    (signal, mask) as in `weighted_sum`; a sample without an applicable aspect of
    either sort is masked.

  Raises:
    UserError: names that are not those of the rewards, or another average.
  """
  if average not in AVERAGES:
    raise UserError(
      f'config.composition.average="{average}": it is one of'
      f" {', '.join(AVERAGES)}"
    )
  if passes < 1:
    raise UserError(f"config.composition.passes={passes}: at least 1 is needed")
  sorts = {"semantic": several(semantic), "quality": several(quality)}
  suffixes = [""] if passes == 1 else [f"_{k + 1}" for k in range(passes)]
  names = []
  for field, aspects in sorts.items():
    for name in [a + s for a in aspects for s in suffixes]:
      require(name, weights, field)
      names.append(name)
  if sorted(names) != sorted(weights) or not all(sorts.values()):
    raise UserError(
      f"config.composition.semantic={sorts['semantic']}, quality="
      f"{sorts['quality']}: name every reward once, and one or more in each;"
      f" there are {', '.join(weights)}"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  lowest: dict[str, list[Array]] = {field: [] for field in sorts}
  for field, aspects in sorts.items():
    for suffix in suffixes:
      low = _lowest([a + suffix for a in aspects], safe, weights, mask)
      mask = mask & jnp.isfinite(low)
      lowest[field].append(jnp.where(jnp.isfinite(low), low, 0.0))
  pairs = zip(lowest["semantic"], lowest["quality"], strict=True)
  if average == "last":
    signal = sum(safe_sqrt(s * q) for s, q in pairs) / passes
  else:
    means = [jnp.stack(rows).mean(0) for rows in lowest.values()]
    signal = safe_sqrt(means[0] * means[1])
  return jnp.where(mask, signal, 0.0), mask


def _lowest(names, safe, weights, mask) -> Float[Array, "P G"]:
  """The smallest weighted score, 0 or above; infinite where none applies."""
  rows = [
    jnp.where(
      applicable(name, weights, mask),
      jnp.maximum(weights[name] * safe[name], 0.0),
      jnp.inf,
    )
    for name in names
  ]
  return functools.reduce(jnp.minimum, rows)


def own_and_others(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  own: Any,
  others: Any,
  share: float = 0.5,
) -> Signal:
  """A user's own rubrics, and those of users alike.

  R = share mean_i w_i r_i + (1 - share) mean_j w_j r_j over what is applicable: i are
  judges by rubrics that were written for the user, j by rubrics of others of the same
  taste. Without one of the two the mean of the other alone, as for a new user.
  P-GenRM, https://arxiv.org/abs/2602.12116, of answers in words there; the share and
  the number of rubrics are unverified, and who is alike is not found here.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight; 0 where a rubric is not applicable.
    own: names of rewards, or one name.
    others: names of the other ones.
    share: of a user's own, in [0, 1].

  Returns:
    (signal, mask) as in `weighted_sum`; a sample without an applicable rubric is
    masked.

  Raises:
    UserError: names that are not those of the rewards, or a share out of range.
  """
  if not 0 <= share <= 1:
    raise UserError(
      f"config.composition.share={share}: it is a share, from 0 to 1"
    )
  sorts = {"own": several(own), "others": several(others)}
  for field, names in sorts.items():
    for name in names:
      require(name, weights, field)
  if sorted(n for names in sorts.values() for n in names) != sorted(weights):
    raise UserError(
      f"config.composition.own={sorts['own']}, others={sorts['others']}: name"
      f" every reward once; there are {', '.join(weights)}"
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  means, there = [], []
  for names in sorts.values():
    rows = [weights[n] * safe[n] for n in names] or [jnp.zeros(mask.shape)]
    applies = [applicable(n, weights, mask) for n in names]
    applies = jnp.stack(applies or [jnp.zeros(mask.shape, bool)])
    means.append(masked_mean(jnp.stack(rows), applies, axis=0))
    there.append(applies.any(0))
  part = jnp.where(there[0] & there[1], share, there[0])
  signal = part * means[0] + (1 - part) * means[1]
  mask = mask & (there[0] | there[1])
  return jnp.where(mask, signal, 0.0), mask


def discrepancy(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  gate: str = "",
  most: float = 50.0,
  failed: float | None = None,
) -> Signal:
  """How severe all is that is not as it should be: R = 1 + clip(1 - S / most, 0, 1).

  S = sum_k w_k max(1 - r_k, 0): a reward in [0, 1] says how much of one thing is as it
  should be, and its weight how severe it is if nothing is. R is 0 where the gate, such
  as whether there is an image at all, is 0 or less.
  Visual-ERM, https://arxiv.org/abs/2603.13224, of rendered charts, tables and
  vector graphics, whose judge lists what is wrong with severities 1, 2 and 3; here
  what may be wrong is listed by the rewards. Range and clip are those of the authors'
  code, which gives a sample without a verdict a severity of 25; here it is masked.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> severity; 0 where a thing is not applicable; not used for the gate.
    gate: name of the reward that is the gate; "" for none.
    most: severity at and above which R is 1.
    failed: severity of a sample of which a score failed; None masks it.

  Returns:
    (signal in [0, 2], mask) as in `weighted_sum`.

  Raises:
    UserError: a gate that is no reward, or a number out of range.
  """
  require_positive("config.composition.", most=most)
  require_not_negative("config.composition.", failed=failed)
  if gate:
    require(gate, weights, "gate")
  whole = valid_of(scores, masks, weights)
  safe = safe_of(scores, whole, weights)
  severity = jnp.zeros(whole.shape)
  for name in (k for k in weights if k != gate):
    severity += weights[name] * jnp.maximum(1 - safe[name], 0.0)
  mask = whole
  if failed is not None:
    severity = jnp.where(whole, severity, failed)
    every = (mask_of(name, masks) for name in weights)
    mask = functools.reduce(jnp.logical_and, every)
  signal = 1 + jnp.clip(1 - severity / most, 0.0, 1.0)
  if gate:
    mask &= jnp.isfinite(scores[gate])
    is_open = jnp.where(mask, scores[gate], 0.0) > 0
    signal = jnp.where(is_open, signal, 0.0)
  return jnp.where(mask, signal, 0.0), mask
