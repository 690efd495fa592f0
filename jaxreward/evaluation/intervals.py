"""Confidence intervals of evaluation metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxreward.types import ArrayLike

Values = Sequence[Any] | ArrayLike  # numbers on the host, [N]
_DRAWS_AT_ONCE = 2**20


class Interval(NamedTuple):
  """An estimate with the bounds of its confidence interval."""

  value: float
  low: float
  high: float


def wilson(
  successes: int | float, n: int | float, *, confidence: float = 0.95
) -> tuple[float, float]:
  """Wilson's score interval of a share (Wilson 1927).

  The shares p with |k / n - p| <= z sqrt(p (1 - p) / n):

    (k + z^2 / 2 -+ z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2)

  It stays inside [0, 1] and has positive width at k = 0 and k = n.

  Args:
    successes: k, between 0 and n.
    n: number of trials; 0 gives (0, 1).
    confidence: two-sided, between 0 and 1.

  Returns:
    (low, high).

  Raises:
    ValueError: when k is not between 0 and n.
  """
  if not 0 <= successes <= n:
    raise ValueError(f"successes {successes} must lie between 0 and n = {n}")
  if n == 0:
    return 0.0, 1.0
  z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
  middle = successes + z * z / 2
  half = z * math.sqrt(successes * (n - successes) / n + z * z / 4)
  low = (middle - half) / (n + z * z)
  high = (middle + half) / (n + z * z)
  rate = successes / n  # rounding must not put it outside
  return min(max(low, 0.0), rate), max(min(high, 1.0), rate)


def share(
  strict: Values, clusters: Values | None = None, **options: Any
) -> tuple[float, float]:
  """Interval of the share of one category: no narrower than `wilson`.

  With several clusters it also covers `clustered_share`; both are needed
  because a few clusters may agree by chance. For a single cluster it is
  `wilson` over samples and covers that cluster, not others.

  Args:
    strict: [N] of shares, each between 0 and 1; most are 0 or 1.
    clusters: [N], cluster of each sample; None makes each its own.
    **options: of `clustered_share`: seed, resamples, confidence.

  Returns:
    (low, high).
  """
  strict = np.asarray(strict, float)
  level = {k: v for k, v in options.items() if k == "confidence"}
  low, high = wilson(float(strict.sum()), strict.size, **level)
  if clusters is None or np.unique(np.asarray(clusters)).size <= 1:
    return low, high
  ends = clustered_share(strict, clusters, **options)
  return min(low, ends[0]), max(high, ends[1])


def clustered_share(
  strict: Values,
  clusters: Values,
  *,
  strata: Values | None = None,
  **options: Any,
) -> tuple[float, float]:
  """Interval of a share of clustered samples, such as samples of one prompt.

  Samples of a cluster are correlated, so `wilson` over samples is too narrow.
  Whole clusters are resampled within their stratum, as in `paired_bootstrap`,
  including its rule for strata with one cluster. If the units of every stratum
  are equal, the bootstrap has no variance, and `wilson` is used with the
  effective number of units, which for one stratum is their number.

  Args:
    strict: [N] of 0 and 1, finite.
    clusters: [N], cluster of each sample.
    strata: [N], parts of fixed size, such as categories; None for a single one.
    **options: of `paired_bootstrap`: seed, resamples, confidence.

  Returns:
    (low, high).

  Raises:
    ValueError: when the lengths differ.
  """
  strict = np.asarray(strict, float)
  if strict.shape != np.shape(clusters) or strict.ndim != 1:
    raise ValueError(
      f"strict {strict.shape} and clusters {np.shape(clusters)} must be equal"
      " [N]"
    )
  if not strict.size:
    return 0.0, 1.0
  units = _units(strict, clusters, strata)
  if all(np.unique(total / weight).size == 1 for total, weight in units):
    level = {k: v for k, v in options.items() if k == "confidence"}
    parts = [(w.sum() / strict.size) ** 2 / w.size for _, w in units]
    n = 1 / float(sum(parts))
    return wilson(float(strict.mean()) * n, n, **level)
  interval = paired_bootstrap(
    np.zeros_like(strict), strict, clusters=clusters, strata=strata, **options
  )
  return interval.low, interval.high


def paired_bootstrap(
  before: Values,
  after: Values,
  *,
  clusters: Values | None = None,
  strata: Values | None = None,
  seed: int = 0,
  resamples: int = 4000,
  confidence: float = 0.95,
) -> Interval:
  """Mean of after - before with its percentile bootstrap interval.

  Both policies use the same prompts and seeds, so pairs are resampled. Samples
  that share a prompt are not independent: with `clusters`, whole prompts are
  resampled, which gives the wider, correct interval.

  An evaluation that fixes the number of samples per category passes categories
  as `strata`: units are resampled within each, and each keeps its weight. In a
  stratum with one cluster, single pairs are resampled: its part of the interval
  covers one meaning and says nothing about others.

  Of K units K - 1 are drawn with replacement; drawing K would scale the
  variance by (K - 1) / K (Rao and Wu 1988), too small for strata of few units.

  Args:
    before: [N]; a pair with a non-finite half is excluded.
    after: [N].
    clusters: [N], the prompt of each pair; None makes each its own.
    strata: [N], parts of fixed size, such as categories; None for a single one.
    seed: of the resampling; equal seeds give equal intervals.
    resamples: number of bootstrap draws.
    confidence: two-sided, between 0 and 1.

  Returns:
    Interval(value, low, high); NaN when no pair is left.

  Raises:
    ValueError: when the lengths differ.
  """
  before, after = np.asarray(before, float), np.asarray(after, float)
  if before.shape != after.shape or before.ndim != 1:
    raise ValueError(
      f"before {before.shape} and after {after.shape} must be equal [N]"
    )
  keep = np.isfinite(before) & np.isfinite(after)
  if not keep.any():
    return Interval(math.nan, math.nan, math.nan)
  difference = (after - before)[keep]
  select = lambda x: None if x is None else np.asarray(x)[keep]
  generator = np.random.Generator(np.random.PCG64(seed))
  means = np.zeros(resamples)
  for total, weight in _units(difference, select(clusters), select(strata)):
    share_of = weight.sum() / difference.size
    means += share_of * _resampled(generator, total, weight, resamples)
  return _percentile(difference.mean(), means, confidence)


def equal_strata_bootstrap(
  before: ArrayLike,
  after: ArrayLike,
  *,
  strata: Values,
  seed: int = 0,
  resamples: int = 4000,
  confidence: float = 0.95,
) -> Interval:
  """Difference of two scores, each the mean over strata of their samples' means.

  A stratum's mean is of its samples, so that a cluster with more of them weighs more;
  strata weigh the same. Whole clusters are drawn as in `paired_bootstrap`, the same
  on both sides.

  Args:
    before: [N, G], samples of N clusters; NaN for none.
    after: [N, H], of the same clusters. Those that either side lacks are left out.
    strata: [N].
    seed: see `paired_bootstrap`.
    resamples: see there.
    confidence: see there.

  Returns:
    Interval(value, low, high); NaN when no cluster is left.
  """
  sides = [np.asarray(x, float) for x in (before, after)]
  strata = np.asarray(strata)
  total = np.stack([np.where(np.isfinite(x), x, 0).sum(1) for x in sides])
  weight = np.stack([np.isfinite(x).sum(1) for x in sides])
  keep = (weight > 0).all(0)
  if not keep.any():
    return Interval(math.nan, math.nan, math.nan)
  value, means = 0.0, np.zeros(resamples)
  kinds = np.unique(strata[keep])
  for number, kind in enumerate(kinds):
    rows = keep & (strata == kind)
    for sign, t, w in zip(
      (-1, 1), total[:, rows], weight[:, rows], strict=True
    ):
      generator = np.random.Generator(np.random.PCG64([seed, number]))
      value += sign * t.sum() / w.sum() / kinds.size
      means += sign * _resampled(generator, t, w, resamples) / kinds.size
  return _percentile(value, means, confidence)


def _percentile(value, means: np.ndarray, confidence: float) -> Interval:
  """A value with the middle `confidence` of its bootstrap means."""
  tail = (1 - confidence) / 2
  low, high = np.quantile(means, (tail, 1 - tail))
  return Interval(float(value), float(low), float(high))


def _units(values, clusters, strata) -> list[tuple[np.ndarray, np.ndarray]]:
  """(sum of values, size) of the resampled units of each stratum.

  Units are clusters, or single values where a stratum has one cluster.
  """
  strata = np.zeros(values.shape, int) if strata is None else np.asarray(strata)
  if strata.shape != values.shape:
    raise ValueError(f"strata {strata.shape} must be {values.shape}")
  clusters = np.arange(values.size) if clusters is None else clusters
  clusters = np.asarray(clusters)
  units = []
  for stratum in np.unique(strata):
    is_member = strata == stratum
    index = np.unique(clusters[is_member], return_inverse=True)[1]
    if not index.any():
      index = np.arange(index.size)
    weight = np.bincount(index).astype(float)
    units.append((np.bincount(index, weights=values[is_member]), weight))
  return units


def _resampled(generator, total, weight, resamples: int) -> np.ndarray:
  """Bootstrap means [resamples], `_DRAWS_AT_ONCE` at a time."""
  units = total.size
  size = max(units - 1, 1)
  rows = max(1, _DRAWS_AT_ONCE // size)
  means = np.empty(resamples)
  for start in range(0, resamples, rows):
    stop = min(start + rows, resamples)
    sample = generator.integers(units, size=(stop - start, size))
    means[start:stop] = total[sample].sum(1) / weight[sample].sum(1)
  return means
