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
  require,
  safe_of,
  several,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import safe_sqrt
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
