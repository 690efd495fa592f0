"""Terms of a pair: formulas on tiles of pairs, the same for every backend.

A tile function takes the fields of one's own candidates [N, 1, I], those of
the others [N, J, 1] and which pairs are of two different candidates, and
returns what each pair adds to its own candidate's sums, [N, J, I] each. An
absent candidate has NaN in its last field; comparisons with NaN are false,
which keeps it out of every pair.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.types import Array

Own = tuple[Float[Array, "N 1 I"], ...]
Other = tuple[Float[Array, "N J 1"], ...]
Pairs = Bool[Array, "N J I"] | Bool[Array, "1 J I"]
Sums = tuple[Float[Array, "N J I"], ...]


@dataclasses.dataclass(frozen=True)
class PairLoss:
  """A loss w softplus(margin - d) + offset, with d the score difference.

  Attributes:
    win: w where the candidate is rated above the other.
    tie: w where they are rated alike.
    lose: w where it is rated below.
    offset: added for a tie, once per ordered pair.
    count: pairs that a tie counts for, once per ordered pair.
    margin: m.
    width: ratings that differ by no more than this are alike.
  """

  win: float
  tie: float
  lose: float
  offset: float
  count: float
  margin: float
  width: float

  def __call__(self, own: Own, other: Other, distinct: Pairs) -> Sums:
    """(loss, d loss / d own score, pairs); fields are (score, rating)."""
    gap = own[1] - other[1]
    lead = jnp.where(jnp.isnan(gap), 0.0, own[0] - other[0])
    above, below = gap > self.width, gap < -self.width
    alike = (jnp.abs(gap) <= self.width) & distinct
    pick = lambda high, tie, low: jnp.where(
      above, high, jnp.where(below, low, jnp.where(alike, tie, 0.0))
    )
    weight = pick(self.win, self.tie, self.lose)
    reverse_weight = pick(self.lose, self.tie, self.win)
    plus, up, down = _softplus(lead, self.margin)
    loss = weight * plus + jnp.where(alike, self.offset, 0.0)
    return loss, reverse_weight * down - weight * up, pick(0.5, self.count, 0.5)


@dataclasses.dataclass(frozen=True)
class WinRate:
  """Chance to beat the other: sigmoid(d / temperature), a step at 0."""

  temperature: float

  def __call__(self, own: Own, other: Other, distinct: Pairs) -> Sums:
    """(chance to win,); fields are (score,)."""
    lead = own[0] - other[0]
    if self.temperature:
      chance = _sigmoids(lead / self.temperature)[0]
    else:
      chance = jnp.where(lead > 0, 1.0, 0.5)
      chance = jnp.where(lead < 0, 0.0, chance)
    return (jnp.where(distinct & ~jnp.isnan(lead), chance, 0.0),)


@dataclasses.dataclass(frozen=True)
class WinRateGradient:
  """d loss / d own score, from d loss / d rate of both candidates."""

  temperature: float

  def __call__(self, own: Own, other: Other, distinct: Pairs) -> Sums:
    """(d loss / d own score,); fields are (d loss / d rate, score)."""
    lead = own[1] - other[1]
    up, down, _ = _sigmoids(lead / self.temperature)
    push = up * down * (own[0] - other[0]) / self.temperature
    return (jnp.where(distinct & ~jnp.isnan(lead), push, 0.0),)


def bradley_terry(
  ties: str, margin: float, label_noise: float, width: float
) -> PairLoss:
  """-p log sigmoid(d - m) - (1 - p) log sigmoid(-d - m), p from the ratings."""
  skip = ties == "skip"
  return PairLoss(
    win=1 - label_noise, tie=0.0 if skip else 0.5, lose=label_noise,
    offset=0.0, count=0.0 if skip else 0.5, margin=margin, width=width,
  )  # fmt: skip


def rao_kupper(threshold: float, width: float) -> PairLoss:
  """-log sigmoid(d - log k) for a win, -log (k^2 - 1) more for a tie."""
  return PairLoss(
    win=1.0, tie=1.0, lose=0.0, offset=-math.log(threshold**2 - 1) / 2,
    count=0.5, margin=math.log(threshold), width=width,
  )  # fmt: skip


def _sigmoids(x):
  """(sigmoid(x), sigmoid(-x), exp(-|x|)), each to full precision."""
  small = jnp.exp(-jnp.abs(x))
  large = 1.0 / (1.0 + small)
  minor = small * large
  positive = x >= 0
  up, down = (
    jnp.where(positive, large, minor),
    jnp.where(positive, minor, large),
  )
  return up, down, small


def _softplus(lead, margin):
  """(softplus(m - d), sigmoid(m - d), sigmoid(m + d))."""
  up, down, small = _sigmoids(margin - lead)
  plus = jnp.maximum(margin - lead, 0.0) + jnp.log1p(small)
  if margin:
    down = _sigmoids(margin + lead)[0]
  return plus, up, down
