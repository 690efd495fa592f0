"""Bent scores, ensembles and weighed checks against loops in float64."""

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases

W = cases.WEIGHTS


@pytest.mark.parametrize("threshold", ["mean", "median", 0.6])
def test_tamed_sum(threshold):
  scores, mask = cases.draw(0)
  scores["c"] = scores["c"] ** 4 * 5
  valid = cases.valid(scores, mask)
  flat = {k: scores[k][valid].astype(np.float64) for k in W}
  spread = {k: x.std() / (x.mean() + 1e-6) for k, x in flat.items()}
  limit = {
    "mean": np.mean(list(spread.values())),
    "median": np.median(list(spread.values())),
  }.get(threshold, threshold)
  tamed = [k for k in W if spread[k] > limit]
  assert tamed == ["c"]
  want = np.zeros(mask.shape)
  want[valid] = sum(
    W[k] * (np.log(1 + flat[k]) if k in tamed else flat[k]) for k in W
  )
  signal, got = cases.run(
    composition.tamed_sum, scores, mask, threshold=threshold
  )
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=2e-6, atol=1e-6)


def test_the_published_taming():
  scores, mask, weights = cases.one((0.2, 0.4, 0.6, 0.8), (0, 0, 0, 4))
  signal, _ = cases.run(composition.tamed_sum, scores, mask, weights)
  np.testing.assert_allclose(signal[0], (0.2, 0.4, 0.6, 2.409438), rtol=1e-6)
  scores["b"] = scores["a"]  # equal rewards: neither varies more
  signal, _ = cases.run(composition.tamed_sum, scores, mask, weights)
  np.testing.assert_allclose(signal, 2 * scores["a"], rtol=1e-6)


def test_harmonic():
  scores, mask = cases.draw(1)
  valid = cases.valid(scores, mask)
  want = np.zeros(mask.shape)
  for p, g in np.argwhere(valid):
    inverse = sum(W[k] / max(float(scores[k][p, g]), 0.1) for k in W)
    want[p, g] = sum(W.values()) / inverse
  signal, got = cases.run(composition.harmonic, scores, mask, floor=0.1)
  np.testing.assert_array_equal(got, valid)
  np.testing.assert_allclose(signal, want, rtol=2e-6)
  low = np.min([np.maximum(scores[k], 0.1) for k in W], 0)
  assert (signal[valid] >= low[valid] * (1 - 1e-6)).all()


def reference_ensemble(scores, mask, aggregate, strength, centre):
  valid, total = cases.valid(scores, mask), np.zeros(mask.shape)
  for p in range(cases.P):
    at = np.flatnonzero(valid[p])
    if not len(at):
      continue
    members = np.array([W[k] * scores[k][p, at].astype(np.float64) for k in W])
    if centre:
      members -= members.mean(1, keepdims=True)
    total[p, at] = {
      "mean": members.mean(0),
      "median": np.median(members, 0),
      "worst": members.min(0),
      "mean_minus_std": members.mean(0) - strength * members.std(0),
    }[aggregate]
  return total


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("name", composition.transforms.AGGREGATES)
def test_ensemble(name, centre):
  scores, mask = cases.draw(2)
  signal, valid = cases.run(
    composition.ensemble, scores, mask, aggregate=name, strength=0.7,
    centre=centre,
  )  # fmt: skip
  np.testing.assert_array_equal(valid, cases.valid(scores, mask))
  want = reference_ensemble(scores, mask, name, 0.7, centre)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=2e-6)


def absent(seed):
  """Scores of which "b" has no part in some prompts, and weights that say so."""
  scores, mask = cases.draw(seed)
  there = np.array([True, False, True, True, False])[:, None]
  weights = W | {"b": np.where(there, W["b"], 0.0).astype(np.float32)}
  scores["b"] = np.where(there, scores["b"], 7.0)  # whatever it is
  return scores, mask, weights, there[:, 0]


def without_b(compose, scores, mask, **options):
  weights = {k: w for k, w in W.items() if k != "b"}
  return cases.run(compose, scores, mask, weights, **options)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", composition.transforms.AGGREGATES)
def test_a_member_without_a_say_is_not_there(name):
  scores, mask, weights, there = absent(6)
  run = lambda fn, *more: fn(
    composition.ensemble, scores, mask, *more, aggregate=name
  )
  got, valid = run(cases.run, weights)
  fewer, _ = run(without_b)
  counts = valid & ~there[:, None]
  np.testing.assert_allclose(got[counts], fewer[counts], rtol=1e-5, atol=1e-6)
  every, _ = run(cases.run)
  counts = valid & there[:, None]
  np.testing.assert_allclose(got[counts], every[counts], rtol=1e-5, atol=1e-6)


def test_three_members_by_hand():
  scores, mask, weights = cases.one(
    (1, 0.2, 0.6), (0.9, 0.8, 0.1), (1.1, 0.5, 0.7)
  )
  for aggregate, want in (
    ("mean", (1, 0.5, 0.466667)),
    ("median", (1, 0.5, 0.6)),
    ("worst", (0.9, 0.2, 0.1)),
    ("mean_minus_std", (0.918350, 0.255051, 0.204200)),
  ):
    signal, _ = cases.run(
      composition.ensemble, scores, mask, weights, aggregate=aggregate,
      centre=False,
    )  # fmt: skip
    np.testing.assert_allclose(signal[0], want, rtol=1e-5)


def test_an_offset_of_a_member_changes_nothing_and_disagreement_costs():
  scores, mask = cases.draw(3, failed=0)
  plain, _ = cases.run(composition.ensemble, scores, mask)
  moved, _ = cases.run(
    composition.ensemble, scores | {"a": scores["a"] + 3}, mask
  )
  np.testing.assert_allclose(plain, moved, atol=2e-6)
  # A member with errors of its own is trusted less where it stands alone.
  truth, rng = np.linspace(0, 1, 2000), np.random.default_rng(0)
  members = [[truth + rng.normal(0, 1, 2000) for _ in range(3)]]
  scores, mask, weights = cases.one(*members[0])
  chosen = {}
  for aggregate in ("mean", "mean_minus_std"):
    signal, _ = cases.run(
      composition.ensemble, scores, mask, weights, aggregate=aggregate
    )
    top = np.argsort(-signal[0])[:50]
    chosen[aggregate] = truth[top].mean()
  alone = truth[np.argsort(-scores["a"][0])[:50]].mean()
  assert chosen["mean"] > alone and chosen["mean_minus_std"] > alone


def reference_checks(scores, mask, passed, alpha, sigma, beta):
  valid, total = cases.valid(scores, mask), np.zeros(mask.shape)
  for p in range(cases.P):
    at = np.flatnonzero(valid[p])
    if not len(at):
      continue
    ok = {k: scores[k][p, at] >= passed for k in W}
    rate = {k: ok[k].mean() for k in W}
    for k in W:
      near = sum(
        np.exp(-((rate[k] - rate[j]) ** 2) / (2 * sigma**2)) for j in W
      )
      weight = W[k] * np.exp(-alpha * rate[k]) / (near + 1e-6)
      total[p, at] += beta * weight * ok[k]
    total[p, at] += np.all(list(ok.values()), 0)
  return total


def test_check_weights():
  scores, mask = cases.draw(5)
  given = dict(passed=0.4, alpha=1.5, sigma=0.2, beta=0.8)
  signal, valid = cases.run(composition.check_weights, scores, mask, **given)
  np.testing.assert_array_equal(valid, cases.valid(scores, mask))
  want = reference_checks(scores, mask, **given)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)


def test_a_check_that_is_not_applicable_is_none():
  """It is passed, and crowds no other: weights are those without it."""
  scores, mask, weights, there = absent(7)
  scores["b"] = np.where(there[:, None], scores["b"], 0.0)  # a failed one
  run = lambda fn, *more: fn(
    composition.check_weights, scores, mask, *more, passed=0.4
  )
  got, valid = run(cases.run, weights)
  fewer, _ = run(without_b)
  counts = valid & ~there[:, None]
  np.testing.assert_allclose(got[counts], fewer[counts], rtol=1e-5)
  assert np.ptp(got[counts]) > 0


def test_many_easy_checks_weigh_no_more_than_one():
  """Pass rates 1, 1, 1 and .25: shares of .061 thrice, and .818."""
  names = "abcd"
  scores = {k: np.ones((1, 4), np.float32) for k in names}
  scores["d"] = np.array([[1, 0, 0, 0]], np.float32)
  weights, mask = dict.fromkeys(names, 1.0), np.ones((1, 4), bool)
  signal, _ = cases.run(composition.check_weights, scores, mask, weights)
  easy = 3 * np.exp(-2) / (3 + 1e-6)
  hard = np.exp(-0.5) / (1 + 1e-6)
  np.testing.assert_allclose(easy / 3, 0.0451, atol=1e-4)
  np.testing.assert_allclose(hard, 0.6065, atol=1e-4)
  np.testing.assert_allclose(
    signal[0], (1 + easy + hard, easy, easy, easy), rtol=1e-5
  )
  # Without either weight it is the pass rate, beside passing all.
  signal, _ = cases.run(
    composition.check_weights, scores, mask, weights, alpha=0.0, sigma=1e6
  )
  np.testing.assert_allclose(signal[0], (2, 0.75, 0.75, 0.75), rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("tamed_sum", dict(threshold="most"), '"most"'),
    ("harmonic", dict(floor=0.0), "floor=0.0"),
    ("ensemble", dict(aggregate="best"), '"best"'),
    ("ensemble", dict(strength=-1.0), "strength=-1.0"),
    ("check_weights", dict(sigma=0.0), "sigma=0.0"),
  ],
)
def test_what_is_refused(name, options, says):
  scores, mask = cases.draw(0)
  with pytest.raises(UserError, match=says):
    composition.REGISTRY[name](scores, mask, W, **options)
