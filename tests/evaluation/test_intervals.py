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


def test_bootstrap_of_damaged_pairs():
  got = intervals.paired_bootstrap([1.0, math.nan, 0.0], [2.0, 5.0, math.inf])
  assert got == (1.0, 1.0, 1.0)
  assert math.isnan(intervals.paired_bootstrap([math.nan], [1.0]).value)
  with pytest.raises(ValueError, match="equal"):
    intervals.paired_bootstrap([1.0], [1.0, 2.0])
