"""Numbers of benchmarks against references of their own."""

import numpy as np
import pytest
import scipy.linalg

from jaxreward.evaluation import benchmarks, intervals, set_metrics


@pytest.mark.parametrize("count", [40, 4])
def test_the_frechet_distance_is_scipys(count):
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((30, 5)), 1.5 * rng.standard_normal((count, 5)) + 1
  first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = scipy.linalg.sqrtm(first @ second).real
  want = np.square(x.mean(0) - y.mean(0)).sum()
  want += np.trace(first + second - 2 * root)
  got = set_metrics.frechet_distance(x, y)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(
    set_metrics.frechet_distance(x, x + 2), 20, rtol=1e-9
  )


def test_precision_recall_density_and_coverage_one_by_one(monkeypatch):
  monkeypatch.setattr(set_metrics, "_AT_ONCE", 100)  # parts of a few rows
  rng, k = np.random.default_rng(1), 3
  real, made = rng.standard_normal((23, 4)), 0.7 * rng.standard_normal((17, 4))
  far = lambda a, b: float(np.linalg.norm(a - b))
  ball = lambda x: [sorted(far(a, b) for b in x)[k] for a in x]
  of_real, of_made = ball(real), ball(made)
  inside = [
    [far(a, b) < r for a, r in zip(real, of_real, strict=True)] for b in made
  ]
  want = {
    "precision": np.mean([any(row) for row in inside]),
    "recall": np.mean(
      [
        any(far(a, b) < r for b, r in zip(made, of_made, strict=True))
        for a in real
      ]
    ),
    "density": np.sum(inside) / (k * len(made)),
    "coverage": np.mean(
      [
        min(far(a, b) for b in made) < r
        for a, r in zip(real, of_real, strict=True)
      ]
    ),
  }
  got = set_metrics.coverage_metrics(real, made, k)
  assert got == pytest.approx(want, rel=1e-12)
  same = set_metrics.coverage_metrics(real, real, k)
  assert same["precision"] == same["recall"] == same["coverage"] == 1


def test_the_overall_score_is_genevals():
  """Per task, then over tasks; of prompts, those with a right image."""
  nan = np.nan
  scores = np.array([[1, 0], [1, 1], [0, nan], [0, 0], [nan, nan]])
  tags = ["colors", "counting", "counting", "counting", "colors"]
  got = benchmarks.summary(scores, tags)
  assert got["categories"] == pytest.approx({"colors": 0.5, "counting": 0.4})
  assert got["images"] == pytest.approx(3 / 7)
  assert got["prompts"] == pytest.approx(2 / 4)
  assert got["overall"] == pytest.approx((0.5 + 0.4) / 2)  # .417 by prompts
  assert (got["n"], got["failed"]) == (7, 3)
  exists = np.ones((5, 2), bool)
  exists[2, 1] = False
  assert benchmarks.summary(scores, tags, exists=exists)["failed"] == 2


def test_two_sides_are_compared_prompt_by_prompt():
  rng = np.random.default_rng(0)
  first = rng.random((60, 4))
  tags = ["a"] * 40 + ["b"] * 20
  second = first + 0.25  # the same gap everywhere
  assert benchmarks.difference(first, second, tags) == pytest.approx(
    (0.25,) * 3
  )
  noise = np.repeat(rng.standard_normal((60, 1)), 4, 1)
  got = benchmarks.difference(first, first + noise, tags)
  values = noise[:, 0]
  parts = values[:40], values[40:]
  assert got.value == pytest.approx(np.mean([x.mean() for x in parts]))
  error = np.sqrt(sum(x.var(ddof=1) / len(x) for x in parts)) / 2
  assert got.high - got.low == pytest.approx(2 * 1.96 * error, rel=0.1)
  few = np.where(rng.random((60, 4)) < 0.5, np.nan, second)  # other counts
  few[0], few[1, 0] = np.nan, 0.5
  got = benchmarks.difference(first, few, tags)
  kept = np.isfinite(few).any(1)
  sides = [
    [np.nanmean(x[kept & (np.array(tags) == t)]) for t in "ab"]
    for x in (first, few)
  ]
  assert got.value == pytest.approx(np.mean(sides[1]) - np.mean(sides[0]))
  assert got.low < got.value < got.high
  plain = intervals.paired_bootstrap(values * 0, values, strata=tags)
  assert plain.value == pytest.approx(values.mean())
