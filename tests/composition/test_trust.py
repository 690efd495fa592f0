"""Trust, prerequisites, parts, routes and percentiles against loops in float64."""

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases

W = cases.WEIGHTS


def zscore(rows, epsilon=1e-4):
  return (rows - rows.mean()) / (rows.std() + epsilon)


def draw(seed):
  scores, mask = cases.draw(seed)
  return scores, mask, cases.valid(scores, mask)


def of(scores, name, p, at):
  return scores[name][p, at].astype(np.float64)


@pytest.mark.parametrize("ramp", [0, 8])
def test_trusted_sum(ramp):
  scores, mask, valid = draw(0)
  want = np.zeros(mask.shape)
  share = min(1.0, 2 / ramp) if ramp else 1.0
  for p in range(cases.P):
    at = np.flatnonzero(valid[p])
    right = of(scores, "a", p, at) >= 0.5
    want[p, at] = W["a"] * of(scores, "a", p, at)
    for k in ("b", "c"):
      r = of(scores, k, p, at)
      trust = 1.0
      if right.any() and not right.all():
        trust = min(1.0, np.exp(r[right].mean() - r[~right].mean()))
      want[p, at] += share * W[k] * trust * r
  signal, got = cases.run(
    composition.trusted_sum, scores, mask, outcome="a", ramp=ramp, iteration=2
  )
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)


def test_stages_follow_one_another_and_leave_other_prompts_out():
  scores, mask, _ = draw(7)
  weights = {**W, "b": np.array([[0.0], [0.5]] * cases.P)[: cases.P]}
  for n, name in ((0, "c"), (2, "c"), (3, "a"), (4, "a"), (5, "b"), (90, "b")):
    signal, got = cases.run(
      composition.staged, scores, mask, weights, order=("c", "a", "b"),
      at=(3, 5), iteration=n, iterations=91,
    )  # fmt: skip
    weight = np.broadcast_to(weights[name], mask.shape)
    want = mask & np.isfinite(scores[name]) & (weight != 0)
    np.testing.assert_array_equal(got, want)
    score = weight * np.where(want, scores[name], 0)
    np.testing.assert_allclose(signal, score, rtol=1e-6)


def test_at_first_the_outcome_counts_alone():
  scores, mask, weights = cases.one((1, 0, 0), (0.1, 0.9, 0.9))
  run = lambda n: cases.run(
    composition.trusted_sum, scores, mask, weights, outcome="a", ramp=4,
    iteration=n,
  )[0]  # fmt: skip
  np.testing.assert_array_equal(run(0), scores["a"])
  trust = np.exp(0.1 - 0.9)  # the other reward prefers what is wrong
  np.testing.assert_allclose(run(9), scores["a"] + trust * scores["b"])


def test_prerequisite():
  scores, mask, valid = draw(1)
  want, gates = np.zeros(mask.shape), set()
  for p in range(cases.P):
    at = np.flatnonzero(valid[p])
    z = {k: zscore(of(scores, k, p, at)) for k in W}
    is_open = of(scores, "b", p, at).mean() >= 0.5
    gates.add(bool(is_open))
    want[p, at] = W["b"] * z["b"]
    if is_open:
      want[p, at] += W["a"] * z["a"] + W["c"] * z["c"]
  assert gates == {True, False}
  signal, got = cases.run(
    composition.prerequisite, scores, mask, check="b", least=0.5
  )
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=1e-4, atol=1e-5)


def test_whole_and_parts():
  scores, mask, valid = draw(2)
  there = np.array([True, False, True, True, False])[:, None]
  weights = W | {"c": np.where(there, W["c"], 0.0).astype(np.float32)}
  scores["c"] = np.where(there, scores["c"], 0.0)
  valid = cases.valid(scores, mask)
  want = np.zeros(mask.shape)
  for p, g in np.argwhere(valid):
    b, c = (W[k] * float(scores[k][p, g]) for k in ("b", "c"))
    parts = (b + c) / 2 if there[p] else b
    want[p, g] = W["a"] * float(scores["a"][p, g]) + parts
  signal, got = cases.run(
    composition.whole_and_parts, scores, mask, weights, whole="a"
  )
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)
  alone = cases.run(
    composition.whole_and_parts, scores, mask, {"a": 2.0}, whole="a"
  )
  plain = cases.run(composition.weighted_sum, scores, mask, {"a": 2.0})
  np.testing.assert_array_equal(alone[0], plain[0])


def test_routed():
  scores, mask, _ = draw(3)
  there = np.array([True, False, True, False, False])[:, None]
  weights = {"a": np.where(there, 2.0, 0.0).astype(np.float32), "b": 0.5}
  scores["a"] = np.where(there, scores["a"], 0.0)
  valid = mask & np.isfinite(scores["a"]) & np.isfinite(scores["b"])
  pools = {"a": valid & there, "b": valid & ~there}
  want = np.zeros(mask.shape)
  for k, w in (("a", 2.0), ("b", 0.5)):
    want[pools[k]] = w * zscore(scores[k][pools[k]].astype(np.float64))
  signal, got = cases.run(
    composition.routed, scores, mask, weights, order=("a", "b")
  )
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=1e-4, atol=1e-5)
  # The learned reward is never read where the rule applies.
  other = scores | {"b": np.where(there, 7 * scores["b"], scores["b"])}
  again, _ = cases.run(
    composition.routed, other, mask, weights, order=("a", "b")
  )
  np.testing.assert_array_equal(again, signal)


def test_percentile_sum():
  scores, mask, valid = draw(4)
  rng = np.random.default_rng(5)
  known = {k: rng.random((cases.P, 4)).astype(np.float32) for k in W}
  known["a"][2, 1:] = np.nan
  known["b"][0] = np.nan  # a prompt without any
  known["c"][1, 0] = scores["c"][1, 0]  # a tie
  valid[0] = False
  want = np.zeros(mask.shape)
  for p, g in np.argwhere(valid):
    for k, w in W.items():
      rows = known[k][p][np.isfinite(known[k][p])]
      r = scores[k][p, g]
      want[p, g] += w * np.mean((rows < r) + 0.5 * (rows == r))
  run = lambda s, **more: cases.run(
    composition.percentile_sum, s, mask, references=known, **more
  )
  signal, got = run(scores)
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)
  steep, _ = cases.run(
    composition.preference_sum, scores, mask, references=known, scale=1e9
  )
  np.testing.assert_allclose(steep, signal, rtol=1e-5, atol=1e-6)


STAGES = dict(order=("a", "b", "c"), iteration=0, iterations=9)


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("trusted_sum", dict(outcome="z", iteration=0), "outcome"),
    ("trusted_sum", dict(outcome="a", iteration=0, ramp=-1), "ramp=-1"),
    ("prerequisite", dict(check="z"), "check"),
    ("whole_and_parts", dict(whole="z"), "whole"),
    ("routed", dict(order=("a",)), "every reward once"),
    ("staged", STAGES | dict(at=(5, 3)), "larger"),
    ("staged", STAGES | dict(at=(5,)), "take 2"),
    ("staged", STAGES | dict(at=(5, 9)), "iterations=9"),
  ],
)
def test_options_that_are_refused(name, options, says):
  scores, mask = cases.draw(5)
  with pytest.raises(UserError, match=says):
    composition.REGISTRY[name](scores, mask, W, **options)
