"""Intervals against scipy and by their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxreward.evaluation import intervals


@pytest.mark.parametrize("k,n", [(0, 10), (3, 10), (10, 10), (397, 480)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_matches_scipy(k, n, confidence):
  want = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
  got = intervals.wilson(k, n, confidence=confidence)
  np.testing.assert_allclose(got, (want.low, want.high), rtol=1e-9, atol=1e-12)


def test_wilson_ends():
  assert intervals.wilson(0, 0) == (0.0, 1.0)
  with pytest.raises(ValueError, match="between 0 and n"):
    intervals.wilson(5, 4)


def test_bootstrap_is_seeded_and_near_the_normal_interval():
  rng = np.random.default_rng(0)
  before = rng.normal(size=400)
  after = before + 0.3 + 0.5 * rng.normal(size=400)
  first = intervals.paired_bootstrap(before, after, seed=3)
  assert first == intervals.paired_bootstrap(before, after, seed=3)
  assert first != intervals.paired_bootstrap(before, after, seed=4)
  half = 1.96 * np.std(after - before) / 20
  value = np.mean(after - before)
  np.testing.assert_allclose(first.value, value, rtol=1e-12)
  np.testing.assert_allclose(first.low, value - half, atol=0.1 * half)
  np.testing.assert_allclose(first.high, value + half, atol=0.1 * half)


def test_bootstrap_pairs_cancel_what_both_share():
  before = 100 * np.random.default_rng(1).normal(size=50)
  got = intervals.paired_bootstrap(before, before + 1.0)
  np.testing.assert_allclose(got, (1, 1, 1), rtol=1e-9)


def test_bootstrap_covers_the_truth():
  rng = np.random.default_rng(2)
  covered = 0
  for seed in range(150):
    shift = rng.normal(0.5, 1.0, size=60)
    got = intervals.paired_bootstrap(
      np.zeros(60), shift, seed=seed, resamples=300
    )
    covered += got.low <= 0.5 <= got.high
  assert 0.87 <= covered / 150 <= 0.99


def test_prompts_widen_the_interval():
  rng = np.random.default_rng(3)
  prompt = np.repeat(np.arange(20), 10)
  after = rng.normal(size=20)[prompt] + 0.1 * rng.normal(size=200)
  alone = intervals.paired_bootstrap(np.zeros(200), after)
  whole = intervals.paired_bootstrap(np.zeros(200), after, clusters=prompt)
  width = lambda i: i.high - i.low
  assert width(whole) > 2 * width(alone)
  np.testing.assert_allclose(whole.value, alone.value)


def test_clusters_widen_the_interval_of_a_share():
  """Ten pictures of a prompt that succeed together count as one."""
  rng = np.random.default_rng(4)
  strict = np.repeat((rng.random(60) < 0.7).astype(float), 10)
  prompt = np.repeat(np.arange(60), 10)
  low, high = intervals.clustered_share(strict, prompt)
  alone = intervals.wilson(strict.sum(), 600)
  whole = intervals.wilson(strict[::10].sum(), 60)
  assert high - low > 2.5 * (alone[1] - alone[0])
  np.testing.assert_allclose((low, high), whole, atol=0.03)
  order = rng.permutation(600)
  names = np.array([f"prompt {i}" for i in range(60)])[prompt]
  again = intervals.clustered_share(strict[order], prompt[order])
  np.testing.assert_allclose(again, (low, high), rtol=1e-12)
  # samples of their own are nearly what Wilson says
  each = intervals.clustered_share(strict, np.arange(600))
  np.testing.assert_allclose(each, alone, atol=0.01)
  assert intervals.clustered_share(strict, names)[0] < alone[0]


def test_a_share_of_clusters_covers_the_truth():
  rng = np.random.default_rng(5)
  prompt, covered = np.repeat(np.arange(50), 4), {"whole": 0, "alone": 0}
  for seed in range(150):
    rate = np.repeat(rng.beta(0.6, 0.4, 50), 4)  # prompts are easy or hard
    strict = (rng.random(200) < rate).astype(float)
    ends = {
      "whole": intervals.clustered_share(
        strict, prompt, seed=seed, resamples=300
      ),
      "alone": intervals.wilson(strict.sum(), 200),
    }
    for name, (low, high) in ends.items():
      covered[name] += low <= 0.6 <= high
  assert 0.87 <= covered["whole"] / 150 <= 0.99
  assert covered["alone"] < covered["whole"]


def test_clusters_that_agree_still_leave_doubt():
  for value in (0.0, 1.0):
    got = intervals.clustered_share(np.full(40, value), np.repeat(range(10), 4))
    assert got == intervals.wilson(10 * value, 10)
  assert intervals.clustered_share([], []) == (0.0, 1.0)
  with pytest.raises(ValueError, match="equal"):
    intervals.clustered_share([1.0], [0, 1])


def _fixed_kinds(rng, means):
  """(strict, cluster, kind) of 80 pictures per kind, clusters unequal.

  The first two kinds have one cluster each, the mean of the others' is beta.
  """
  sizes = [[80], [80], [20] * 4, [30, 10] + [5] * 8]
  kind = np.repeat(np.arange(4), 80)
  cluster = np.repeat(np.arange(16), np.concatenate(sizes))
  rate = np.r_[
    means[:2],
    rng.beta(6 * means[2], 6 * (1 - means[2]), 4),
    rng.beta(6 * means[3], 6 * (1 - means[3]), 10),
  ]
  return (rng.random(320) < rate[cluster]).astype(float), cluster, kind


def test_kinds_of_fixed_size_are_covered_but_not_drawn():
  """Clusters drawn across kinds: an interval that never misses, for width."""
  rng = np.random.default_rng(6)
  means, trials = np.array([0.95, 0.5, 0.8, 0.3]), 150
  covered, width = {"within": 0, "across": 0}, {"within": 0.0, "across": 0.0}
  for seed in range(trials):
    strict, cluster, kind = _fixed_kinds(rng, means)
    for name, strata in (("within", kind), ("across", None)):
      low, high = intervals.clustered_share(
        strict, cluster, strata=strata, seed=seed, resamples=300
      )
      covered[name] += low <= means.mean() <= high
      width[name] += (high - low) / trials
  assert 0.86 <= covered["within"] / trials <= 0.98
  assert covered["across"] == trials  # far too wide
  assert width["across"] > 1.7 * width["within"]


def test_the_difference_keeps_the_kinds_too():
  rng = np.random.default_rng(7)
  means, covered = np.array([0.95, 0.5, 0.8, 0.3]), 0
  for seed in range(150):
    after, cluster, kind = _fixed_kinds(rng, means)
    before = (rng.random(320) < 0.4).astype(float)
    got = intervals.paired_bootstrap(
      before, after, clusters=cluster, strata=kind, seed=seed, resamples=300
    )
    covered += got.low <= means.mean() - 0.4 <= got.high
    np.testing.assert_allclose(got.value, (after - before).mean())
  assert 0.86 <= covered / 150 <= 0.99


def test_one_stratum_is_none():
  rng = np.random.default_rng(8)
  strict, cluster, _ = _fixed_kinds(rng, np.full(4, 0.6))
  one = np.full(320, "all")
  want = intervals.clustered_share(strict, cluster)
  assert intervals.clustered_share(strict, cluster, strata=one) == want
  want = intervals.paired_bootstrap(1 - strict, strict, clusters=cluster)
  got = intervals.paired_bootstrap(
    1 - strict, strict, clusters=cluster, strata=one
  )
  assert got == want
  with pytest.raises(ValueError, match="strata"):
    intervals.clustered_share(strict, cluster, strata=one[1:])


def test_the_spread_is_that_of_a_stratified_mean():
  """Its variance is the sum of w^2 s^2 / K, for unequal strata and few K."""
  rng = np.random.default_rng(9)
  kind = np.repeat([0, 1, 2], [60, 20, 40])
  cluster = np.r_[np.repeat([0, 1, 2], 20), np.zeros(20), np.arange(40)]
  x = rng.normal(size=120) + kind
  means = x[:60].reshape(3, 20).mean(1), x[60:80], x[80:]
  want = sum(
    w**2 * m.var(ddof=1) / m.size
    for w, m in zip((0.5, 1 / 6, 1 / 3), means, strict=True)
  )
  level = 0.6827  # one standard deviation to each side
  got = intervals.paired_bootstrap(
    np.zeros(120), x, clusters=cluster, strata=kind, confidence=level
  )
  np.testing.assert_allclose((got.high - got.low) / 2, want**0.5, rtol=0.08)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_strata_that_agree_still_leave_doubt(value):
  """80 pictures of one meaning and four meanings of 20 pictures."""
  kind = np.repeat([0, 1], 80)
  cluster = np.r_[np.zeros(80), np.repeat([1, 2, 3, 4], 20)]
  strict = np.full(160, value)
  got = intervals.clustered_share(strict, cluster, strata=kind)
  n = 1 / (0.25 / 80 + 0.25 / 4)
  np.testing.assert_allclose(got, intervals.wilson(n * value, n))
  # one cluster alone: its pictures count
  got = intervals.clustered_share(strict[:80], cluster[:80])
  np.testing.assert_allclose(got, intervals.wilson(80 * value, 80))


def test_a_share_is_never_narrower_than_of_independent_samples():
  # clusters that look alike by chance
  cluster, strict = np.repeat(range(4), 20), np.tile([1.0, 0.0], 40)
  strict[0] = 0.0
  alone = intervals.wilson(strict.sum(), 80)
  assert intervals.share(strict) == alone
  assert intervals.share(strict, np.zeros(80)) == alone
  assert intervals.share(strict, cluster) == alone
  apart = np.repeat([1.0, 1.0, 0.0, 1.0], 20)
  low, high = intervals.share(apart, cluster)
  first, last = intervals.wilson(60, 80)
  assert low < first - 0.1 and high > last + 0.1
  assert intervals.share([], []) == (0.0, 1.0)


def test_bootstrap_of_damaged_pairs():
  got = intervals.paired_bootstrap([1.0, math.nan, 0.0], [2.0, 5.0, math.inf])
  assert got == (1.0, 1.0, 1.0)
  assert math.isnan(intervals.paired_bootstrap([math.nan], [1.0]).value)
  with pytest.raises(ValueError, match="equal"):
    intervals.paired_bootstrap([1.0], [1.0, 2.0])
