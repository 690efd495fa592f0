"""Intervals that say how much a measured number can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxreward.types import ArrayLike

Values = Sequence[Any] | ArrayLike  # numbers on the host, [N]


class Interval(NamedTuple):
  """An estimate with the ends of its confidence interval."""

  value: float
  low: float
  high: float


def wilson(
  successes: int | float, n: int | float, *, confidence: float = 0.95
) -> tuple[float, float]:
  """Wilson's score interval of a share (Wilson 1927).

  The shares p with |k / n - p| <= z sqrt(p (1 - p) / n):

    (k + z^2 / 2 -+ z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2)

  It stays inside [0, 1] and has a width at k = 0 and k = n.

  Args:
    successes: k, between 0 and n.
    n: number of trials; 0 gives (0, 1), for nothing is known then.
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


def clustered_share(
  strict: Values, clusters: Values, **options: Any
) -> tuple[float, float]:
  """Interval of a share of samples that come in clusters, as of one prompt.

  Samples of a cluster succeed together, so `wilson` over samples is too
  narrow. Whole clusters are resampled; where all have the same share there is
  nothing to resample, and they are counted by `wilson` instead.

  Args:
    strict: [N] of 0 and 1, finite.
    clusters: [N], what each sample belongs to.
    **options: of `paired_bootstrap`: seed, resamples, confidence.

  Returns:
    (low, high).

  Raises:
    ValueError: when the lengths differ.
  """
  strict, clusters = np.asarray(strict, float), np.asarray(clusters)
  if strict.shape != clusters.shape or strict.ndim != 1:
    raise ValueError(
      f"strict {strict.shape} and clusters {clusters.shape} must be equal [N]"
    )
  index = np.unique(clusters, return_inverse=True)[1]
  count = np.bincount(index)
  share = np.bincount(index, weights=strict) / count
  if np.unique(share).size <= 1:
    level = {k: v for k, v in options.items() if k == "confidence"}
    return wilson(share.sum(), share.size, **level)
  found = paired_bootstrap(
    np.zeros_like(strict), strict, clusters=clusters, **options
  )
  return found.low, found.high


def paired_bootstrap(
  before: Values,
  after: Values,
  *,
  clusters: Values | None = None,
  seed: int = 0,
  resamples: int = 4000,
  confidence: float = 0.95,
) -> Interval:
  """Mean of after - before with its percentile bootstrap interval.

  Both policies saw the same prompts and seeds, so the pair is resampled, not
  its two halves. Samples that share a prompt are not independent: with
  `clusters`, whole prompts are resampled, which is the wider, honest interval.

  Args:
    before: [N]; a pair with a non-finite half is left out.
    after: [N].
    clusters: [N], the prompt of each pair; None makes each its own.
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
  if clusters is None:
    index = np.arange(difference.size)
  else:
    index = np.unique(np.asarray(clusters)[keep], return_inverse=True)[1]
  total = np.bincount(index, weights=difference)
  weight = np.bincount(index).astype(float)
  generator = np.random.Generator(np.random.PCG64(seed))
  means = np.empty(resamples)
  for i in range(resamples):
    drawn = generator.integers(total.size, size=total.size)
    means[i] = total[drawn].sum() / weight[drawn].sum()
  tail = (1 - confidence) / 2
  low, high = np.quantile(means, (tail, 1 - tail))
  return Interval(float(difference.mean()), float(low), float(high))
