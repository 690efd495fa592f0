"""Scores that rest on others, and tiers, against loops in float64."""

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases

W = cases.WEIGHTS


def expect(result, want, scores, mask):
  signal, valid = result
  np.testing.assert_array_equal(valid, cases.valid(scores, mask))
  np.testing.assert_allclose(signal, want, rtol=2e-6, atol=1e-6)


def test_tempered():
  scores, mask = cases.draw(0)
  want = np.zeros(mask.shape)
  for p, g in np.argwhere(cases.valid(scores, mask)):
    a, b, c = (float(scores[k][p, g]) for k in W)
    want[p, g] = (W["a"] * a + W["c"] * c) * (0.3 + 0.7 * b)
  result = cases.run(
    composition.tempered, scores, mask, reliability="b", dependence=0.7
  )
  expect(result, want, scores, mask)


def test_what_is_reliable_is_not_attenuated():
  scores, mask, weights = cases.one((0.2, 0.9), (1.0, 1.0))
  run = lambda scores, **options: cases.run(
    composition.tempered, scores, mask, weights, reliability="b", **options
  )[0]
  np.testing.assert_array_equal(run(scores), scores["a"])
  doubted = scores | {"b": np.zeros_like(scores["a"])}
  np.testing.assert_array_equal(run(doubted, dependence=0.0), scores["a"])
  assert not run(doubted).any()


def test_bonus_if_consistent():
  scores, mask = cases.draw(1)
  valid, want = cases.valid(scores, mask), np.zeros(mask.shape)
  for p in range(cases.P):
    at = np.flatnonzero(valid[p])
    if not len(at):
      continue
    right, fits, rest = (scores[k][p, at].astype(float) for k in W)
    ok = (right > 0.1) & (right >= right.mean())
    more = ok & (fits >= fits[ok].mean() - 0.05)
    want[p, at] = right * (1 + 0.5 * more) + W["c"] * rest
  result = cases.run(
    composition.bonus_if_consistent, scores, mask, base="a", consistency="b",
    margin=0.05,
  )  # fmt: skip
  expect(result, want, scores, mask)


def test_the_published_bonus():
  scores, mask, weights = cases.one((1, 1, 0, 1), (0.9, 0.4, 0.99, 0.8))
  run = lambda scores: cases.run(
    composition.bonus_if_consistent, scores, mask, weights, base="a",
    consistency="b",
  )[0]  # fmt: skip
  np.testing.assert_allclose(run(scores), [[1.5, 1, 0, 1.5]])
  nobody = scores | {"a": np.zeros_like(scores["a"])}
  assert not run(nobody).any()


def test_tiers():
  scores, mask = cases.draw(2)
  limits, steps = (0.25, 0.5, 0.75), (0.2, 0.3, 0.5)
  want = np.zeros(mask.shape)
  for p, g in np.argwhere(cases.valid(scores, mask)):
    for k in W:
      passed = [
        a for a, t in zip(steps, limits, strict=True) if scores[k][p, g] >= t
      ]
      want[p, g] += W[k] * sum(passed)
  result = cases.run(
    composition.tiers, scores, mask, thresholds=limits, increments=steps
  )
  expect(result, want, scores, mask)


def test_tiers_keep_the_order_and_end_at_one():
  scores, mask, weights = cases.one(np.linspace(0, 1, 11))
  signal, _ = cases.run(
    composition.tiers, scores, mask, weights, thresholds=(0.3, 0.6, 0.9)
  )
  assert (np.diff(signal[0]) >= 0).all() and signal[0, 0] == 0
  np.testing.assert_allclose(signal[0, [3, 6, 9]], (1 / 6, 3 / 6, 1), rtol=1e-6)
  one, _ = cases.run(
    composition.tiers, scores, mask, weights, thresholds=(0.5,)
  )
  np.testing.assert_array_equal(one[0], scores["a"][0] >= 0.5)


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("tempered", dict(reliability="d"), 'no reward "d"'),
    ("tempered", dict(reliability="a", dependence=2.0), "dependence=2"),
    ("bonus_if_consistent", dict(base="a", consistency="a"), "it is the base"),
    (
      "bonus_if_consistent",
      dict(base="a", consistency="b", margin=-1.0),
      "margin=-1",
    ),
    ("tiers", dict(thresholds=()), "one or more"),
    ("tiers", dict(thresholds=(0.5, 0.2)), "above the"),
    ("tiers", dict(thresholds=(0.5,), increments=(1, 2)), "as many"),
  ],
)
def test_what_is_refused(name, options, says):
  scores, mask = cases.draw(0)
  with pytest.raises(UserError, match=says):
    composition.REGISTRY[name](scores, mask, W, **options)
