"""Accuracy by kind against a loop."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxreward.evaluation import accuracy

NAMES = ("single", "two", "counting")


def test_matches_a_loop():
  rng = np.random.default_rng(0)
  strict = (rng.random(200) < 0.6).astype(np.float32)
  kind = rng.choice([0, 2], size=200, p=[0.8, 0.2])
  mask = rng.random(200) < 0.9
  got = accuracy.summarise(strict, kind, mask, names=NAMES)
  assert list(got["kinds"]) == ["single", "counting"]
  rates = []
  for index, name in ((0, "single"), (2, "counting")):
    chosen = [
      float(s)
      for s, k, m in zip(strict, kind, mask, strict=True)
      if m and k == index
    ]
    row = got["kinds"][name]
    assert row["n"] == len(chosen)
    np.testing.assert_allclose(row["accuracy"], sum(chosen) / len(chosen))
    ends = stats.binomtest(int(sum(chosen)), len(chosen)).proportion_ci(
      method="wilson"
    )
    np.testing.assert_allclose((row["low"], row["high"]), ends, rtol=1e-9)
    rates.append(sum(chosen) / len(chosen))
  np.testing.assert_allclose(got["mean_over_kinds"], np.mean(rates))
  np.testing.assert_allclose(got["strict"], strict[mask].mean(), rtol=1e-6)
  assert got["n"] == mask.sum() and got["failed"] == 0


def test_the_two_means_differ_when_kinds_are_uneven():
  got = accuracy.summarise([1, 1, 1, 0], [0, 0, 0, 1])
  assert (got["strict"], got["mean_over_kinds"]) == (0.75, 0.5)
  assert list(got["kinds"]) == ["0", "1"]


def test_failed_samples_are_counted_and_left_out():
  got = accuracy.summarise(
    [1, math.nan, 0, math.nan], [0, 0, 0, 0], [True, True, True, False]
  )
  assert (got["strict"], got["n"], got["failed"]) == (0.5, 2, 1)


def test_padding_and_order_change_nothing():
  strict, kind = np.array([1.0, 0, 1, 1]), np.array([0, 1, 1, 2])
  want = accuracy.summarise(strict, kind)
  order = [2, 0, 3, 1]
  padded = accuracy.summarise(
    np.r_[strict[order], 1, 1],
    np.r_[kind[order], 0, 7],
    np.r_[np.ones(4, bool), False, False],
  )
  assert padded == want


def test_clusters_widen_the_whole_and_the_kinds():
  rng = np.random.default_rng(1)
  strict = np.repeat((rng.random(40) < 0.6).astype(float), 5)
  kind, cluster = np.repeat(np.arange(40) % 3, 5), np.repeat(np.arange(40), 5)
  strict[7] = math.nan  # a failed sample leaves its cluster
  plain = accuracy.summarise(strict, kind)
  got = accuracy.summarise(strict, kind, clusters=cluster)
  low, high = got.pop("interval")
  first, last = plain.pop("interval")
  assert low < first < last < high
  for name, row in got.pop("kinds").items():
    alone = plain["kinds"][name]
    assert row["low"] < alone["low"] and alone["high"] < row["high"]
    assert row["clusters"] == (14, 13, 13)[int(name)]
    assert (row["accuracy"], row["n"]) == (alone["accuracy"], alone["n"])
  del plain["kinds"]
  assert got == plain


def test_a_kind_of_one_cluster_counts_its_pictures():
  """Kinds keep their weights: the interval does not see how they differ."""
  strict = np.r_[np.ones(79), 0, np.zeros(79), 1]
  kind = np.repeat([0, 1], 80)
  plain = accuracy.summarise(strict, kind)
  got = accuracy.summarise(strict, kind, clusters=kind)
  assert all(row.pop("clusters") == 1 for row in got["kinds"].values())
  assert got["kinds"] == plain["kinds"]
  low, high = got["interval"]
  assert 0.4 < low < 0.5 < high < 0.6
  want = 2 * 1.96 * (79 / 80 / 80 / 79 / 2) ** 0.5  # of a stratified mean
  np.testing.assert_allclose(high - low, want, rtol=0.2)


def test_nothing_left_is_nan_not_zero():
  got = accuracy.summarise([1.0], [0], [False])
  assert math.isnan(got["strict"]) and got["interval"] == [0.0, 1.0]
  with pytest.raises(ValueError, match="one shape"):
    accuracy.summarise([1.0, 0.0], [0])
