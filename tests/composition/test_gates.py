"""Gated compositions against loops in float64, and the order they promise."""

import math

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases

W = cases.WEIGHTS


def rows(scores, mask):
  """(p, g, {name: float}) of the samples that count."""
  for p, g in np.argwhere(cases.valid(scores, mask)):
    yield p, g, {k: float(scores[k][p, g]) for k in W}


def expect(result, want, scores, mask):
  signal, valid = result
  np.testing.assert_array_equal(valid, cases.valid(scores, mask))
  np.testing.assert_allclose(signal, want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("floor", [None, 0.3])
def test_base_and_bonus(floor):
  scores, mask = cases.draw(0)
  want = np.zeros(mask.shape)
  for p, g, r in rows(scores, mask):
    bonus = W["b"] * r["b"] + W["c"] * r["c"]
    if floor is not None and r["a"] <= floor:
      bonus = 0
    want[p, g] = r["a"] * (W["a"] + bonus) / sum(W.values())
  result = cases.run(
    composition.base_and_bonus, scores, mask, base="a", floor=floor
  )
  expect(result, want, scores, mask)


def test_the_published_edits_and_pictures():
  """FIRM: an untouched copy earns 0, where .6 e + .4 c would give .4."""
  scores, mask, _ = cases.one((1, 0.5, 0.75, 0), (0, 1, 0.5, 1))
  for weights, want in (
    (dict(a=0.6, b=0.4), (0.6, 0.5, 0.6, 0)),
    (dict(a=0.4, b=0.6), (0.4, 0.5, 0.525, 0)),
  ):
    signal, _ = cases.run(
      composition.base_and_bonus, scores, mask, weights, base="a"
    )
    np.testing.assert_allclose(signal[0], want, rtol=1e-6)


def test_gated_sum():
  scores, mask = cases.draw(1)
  gates = dict(a=0.4, b=0.3)
  want = np.zeros(mask.shape)
  for p, g, r in rows(scores, mask):
    failed = sum(r[k] < np.float32(tau) for k, tau in gates.items())
    want[p, g] = -(0.5 + 0.25 * failed) if failed else W["c"] * r["c"]
  result = cases.run(
    composition.gated_sum, scores, mask, gates=gates, penalty=0.5,
    penalty_each=0.25,
  )  # fmt: skip
  expect(result, want, scores, mask)
  assert (want < 0).any() and (want > 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_no_sample_that_fails_a_gate_outranks_one_that_passes(seed):
  scores, mask = cases.draw(seed, failed=0)
  signal, _ = cases.run(composition.gated_sum, scores, mask, gates=dict(a=0.5))
  passed = mask & (scores["a"] >= 0.5)
  failed = mask & (scores["a"] < 0.5)
  assert signal[passed].min() > signal[failed].max()
  every, _ = cases.run(composition.gated_sum, scores, mask, gates=dict(a=0.0))
  rest = W["b"] * scores["b"] + W["c"] * scores["c"]
  np.testing.assert_allclose(every[mask], rest[mask], rtol=1e-6)


def test_lexicographic():
  scores, mask = cases.draw(2)
  want = np.zeros(mask.shape)
  for p, g, r in rows(scores, mask):
    total = W["b"] * r["b"]
    if r["b"] >= np.float32(0.6):
      total += W["a"] * r["a"]
      if r["a"] >= np.float32(0.5):
        total += W["c"] * r["c"]
    want[p, g] = total
  result = cases.run(
    composition.lexicographic, scores, mask, order=("b", "a", "c"),
    thresholds=(0.6, 0.5),
  )  # fmt: skip
  expect(result, want, scores, mask)


def test_a_level_that_is_failed_stays_below_one_that_is_passed():
  scores, mask = cases.draw(3, failed=0)
  signal, _ = cases.run(
    composition.lexicographic, scores, mask, dict(a=1.0, b=1.0, c=1.0),
    order=("a", "b", "c"), thresholds=(0.5, 0.5),
  )  # fmt: skip
  passed, failed = mask & (scores["a"] >= 0.5), mask & (scores["a"] < 0.5)
  assert signal[passed].min() >= signal[failed].max()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_mastered_first(share):
  scores, mask = cases.draw(4)
  valid, threshold, strength = cases.valid(scores, mask), 0.4, 0.6
  success = valid & (np.nan_to_num(scores["a"], posinf=0) >= threshold)
  rates = [success[p].sum() / max(valid[p].sum(), 1) for p in range(cases.P)]
  best = sorted(range(cases.P), key=lambda p: -rates[p])
  best = best[: math.ceil(share * cases.P)]
  want = np.where(success, 1.0, 0.0)
  for p in best:
    second = {
      g: W["b"] * float(scores["b"][p, g]) + W["c"] * float(scores["c"][p, g])
      for g in np.flatnonzero(success[p])
    }
    mean, std = np.mean(list(second.values())), np.std(list(second.values()))
    for g, value in second.items():
      want[p, g] = 1 - strength / (1 + np.exp((value - mean) / std))
  result = cases.run(
    composition.mastered_first, scores, mask, base="a", threshold=threshold,
    share=share, strength=strength,
  )  # fmt: skip
  expect(result, want, scores, mask)


def test_the_published_lengths():
  """Of three successes of lengths 100, 200 and 300, and one failure."""
  scores, mask, weights = cases.one((1, 1, 1, 0), (-100, -200, -300, 0))
  signal, _ = cases.run(
    composition.mastered_first, scores, mask, weights, base="a", share=1.0
  )
  np.testing.assert_allclose(signal[0], (0.863738, 0.7, 0.536262, 0), rtol=1e-5)


def test_a_reward_without_a_say_is_no_gate():
  scores, mask, weights = cases.one((0, 1), (1, 1))
  weights["a"] = np.array([[0.0]], np.float32)
  signal, _ = cases.run(
    composition.gated_sum, scores, mask, weights, gates=dict(a=0.5)
  )
  np.testing.assert_array_equal(signal, [[1, 1]])
  signal, _ = cases.run(
    composition.lexicographic, scores, mask, weights, order=("a", "b"),
    thresholds=(0.5,),
  )  # fmt: skip
  np.testing.assert_array_equal(signal, [[1, 1]])


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("base_and_bonus", dict(base="d"), 'no reward "d"'),
    ("gated_sum", dict(gates=dict(d=0.5)), 'no reward "d"'),
    ("gated_sum", dict(gates={}), "one reward or more"),
    ("gated_sum", dict(gates=dict(a=0, b=0, c=0)), "leave one"),
    ("gated_sum", dict(gates=dict(a=0), penalty=-1.0), "penalty=-1.0"),
    ("lexicographic", dict(order=("a",), thresholds=()), "every reward once"),
    ("lexicographic", dict(order=("a", "b", "c"), thresholds=(1,)), "take 2"),
    ("mastered_first", dict(base="a", share=2.0), "share=2.0"),
    ("mastered_first", dict(base="a", strength=1.0), "strength=1.0"),
  ],
)
def test_what_is_refused(name, options, says):
  scores, mask = cases.draw(0)
  with pytest.raises(UserError, match=says):
    composition.REGISTRY[name](scores, mask, W, **options)
