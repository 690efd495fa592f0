"""Aspects of edits: EditScore's composition, and those that recipes are made of."""

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases


def vie(scores, mask, weights, **options):
  return cases.run(composition.viescore, scores, mask, weights, **options)


def test_viescore_against_loops():
  """Two passes, a failed answer, and an aspect that some prompts do not have."""
  rng = np.random.default_rng(0)
  names = ("follow", "keep", "look")
  scores = {
    f"{name}_{k}": rng.random((cases.P, cases.G)).astype(np.float32)
    for name in names
    for k in (1, 2)
  }
  scores["look_2"][1, 2] = np.nan
  mask = rng.random((cases.P, cases.G)) > 0.1
  there = np.array([True, False, True, True, False])[:, None]
  weights = dict.fromkeys(scores, 1.0)
  for k in (1, 2):
    weights[f"keep_{k}"] = np.where(there, 2.0, 0.0).astype(np.float32)
  valid = mask & np.all([np.isfinite(x) for x in scores.values()], 0)
  values = np.zeros((2, 2, *mask.shape))  # [sort, pass, P, G]
  for p, g in np.argwhere(valid):
    for k in (0, 1):
      of = {name: float(scores[f"{name}_{k + 1}"][p, g]) for name in names}
      kept = [2 * of["keep"]] if there[p] else []
      values[:, k, p, g] = min([of["follow"], *kept]), of["look"]
  last = np.sqrt(values[0] * values[1]).mean(0)
  first = np.sqrt(values[0].mean(0) * values[1].mean(0))
  options = dict(semantic=("follow", "keep"), quality="look", passes=2)
  for average, want in (("last", last), ("first", first)):
    signal, got = vie(scores, mask, weights, average=average, **options)
    np.testing.assert_array_equal(got, valid)
    np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)
  assert (last <= first + 1e-9).all()


def test_viescore_by_hand():
  """Of 25: follow 20, preserve 15, natural 10, artefacts 25; then 0, and alike."""
  names = ("follow", "keep", "natural", "clean")
  rows = np.array([[20, 0, 5], [15, 9, 5], [10, 9, 5], [25, 9, 5]]) / 25
  scores = dict(zip(names, rows[:, None].astype(np.float32), strict=True))
  weights = dict.fromkeys(names, 10.0)
  signal, _ = vie(
    scores, np.ones((1, 3), bool), weights, semantic=names[:2], quality=names[2:]
  )  # fmt: skip
  np.testing.assert_allclose(signal, [[4.898979, 0, 2]], rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    (dict(semantic="a", quality=("b", "z")), "quality"),
    (dict(semantic="a", quality="b"), "every reward once"),
    (dict(semantic=("a", "b"), quality=("b", "c")), "every reward once"),
    (dict(semantic="a", quality=("b", "c"), passes=0), "passes=0"),
    (dict(semantic="a", quality=("b", "c"), passes=2), "quality|semantic"),
    (dict(semantic="a", quality=("b", "c"), average="mean"), "average"),
  ],
)
def test_options_that_are_refused(options, says):
  scores, mask = cases.draw(0)
  with pytest.raises(UserError, match=says):
    composition.viescore(scores, mask, cases.WEIGHTS, **options)


def test_typed_items_are_averaged_and_change_nothing_where_all_agree():
  """Visual-Aware CoT: words, and the mean of the items that a prompt has."""
  scores, mask, weights = cases.one((0.5, 0.5, 0.2), (1.0, 0.4, 0.9))
  run = lambda s, w: cases.run(
    composition.whole_and_parts, s, mask, w, whole="a"
  )[0]
  alone = run(scores, weights)
  np.testing.assert_allclose(alone, [[1.5, 0.9, 1.1]], rtol=1e-6)
  more = scores | {"c": np.full((1, 3), 0.7, np.float32)}
  both = run(more, weights | {"c": 1.0})
  gaps = lambda x: x - x.mean()
  halved = scores["a"] + scores["b"] / 2
  np.testing.assert_allclose(gaps(both), gaps(halved), atol=1e-6)
  absent = run(more, weights | {"c": np.zeros((1, 1), np.float32)})
  np.testing.assert_allclose(absent, alone)


def test_the_odds_against_the_reference_are_antisymmetric_and_of_a_task():
  """OneReward: one half against oneself, and two tasks that want opposites."""
  bright = np.array([[0.2, 0.8], [0.2, 0.8]], np.float32)
  scores = {"bright": bright, "dark": 1 - bright}
  task = np.array([[1.0], [0.0]], np.float32)
  weights = {"bright": task, "dark": 1 - task}
  mask = np.ones((2, 2), bool)
  odds = lambda s, r: cases.run(
    composition.preference_sum, s, mask, weights, references=r, scale=10.0
  )[0]
  first = {name: x[:, :1] for name, x in scores.items()}
  got = odds(scores, first)
  np.testing.assert_allclose(got[:, 0], 0.5)
  np.testing.assert_allclose(
    got[:, 1], 1 / (1 + np.exp([-6.0, 6.0])), rtol=1e-5
  )
  other = odds({k: np.flip(x, 1) for k, x in scores.items()}, {
    name: x[:, 1:] for name, x in scores.items()
  })  # fmt: skip
  np.testing.assert_allclose(other[:, 1], 1 - got[:, 1], atol=1e-6)


def test_a_task_chooses_its_rewards():
  """PosterOmni: where entities weigh nothing, the reference is not read."""
  scores, mask, _ = cases.one((0.1, 0.9), (0.6, 0.2))
  weights = {"a": np.zeros((1, 1), np.float32), "b": 1.0}
  for entity in (scores["a"], 7 * scores["a"]):
    signal, _ = cases.run(
      composition.weighted_sum, scores | {"a": entity}, mask, weights
    )
    np.testing.assert_allclose(signal, scores["b"])


def test_own_rubrics_and_those_of_others_are_averaged_apart():
  rng = np.random.default_rng(1)
  names = ("a", "b", "x", "y", "z")
  scores = {n: rng.random((2, 3)).astype(np.float32) for n in names}
  weights = dict.fromkeys(names, 1.0)
  # Of the first prompt one own rubric alone applies, of the second none: a new user.
  for name, rows in (("a", [1, 0]), ("b", [0, 0])):
    weights[name] = np.array(rows, np.float32)[:, None]
  options = dict(own=("a", "b"), others=("x", "y", "z"), share=0.75)
  run = lambda **more: cases.run(
    composition.own_and_others, scores, np.ones((2, 3), bool), weights,
    **{**options, **more},
  )  # fmt: skip
  signal, mask = run()
  alike = np.mean([scores[n] for n in "xyz"], 0)
  want = np.stack([0.75 * scores["a"][0] + 0.25 * alike[0], alike[1]])
  np.testing.assert_allclose(signal, want, rtol=1e-5)
  assert mask.all()
  alone, _ = run(share=1.0)
  np.testing.assert_allclose(alone[0], scores["a"][0], rtol=1e-6)


def test_a_mean_of_rubrics_is_as_noisy_as_one_over_their_number():
  rng = np.random.default_rng(2)
  for count in (1, 4):
    names = [f"r{i}" for i in range(count)]
    scores = {n: rng.normal(size=(20, 200)).astype(np.float32) for n in names}
    signal, _ = cases.run(
      composition.own_and_others, scores, np.ones((20, 200), bool),
      dict.fromkeys(names, 1.0), own=tuple(names), others=(), share=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(signal.var(), 1 / count, rtol=0.08)


SEVERITIES = {  # (score of a, of b; the gate): R, with weights 30 and 20
  (1.0, 1.0, 1.0): 2.0,
  (0.5, 0.5, 1.0): 1.5,
  (0.0, 0.0, 1.0): 1.0,
  (-1.0, 0.0, 1.0): 1.0,
  (1.5, 1.0, 1.0): 2.0,  # no severity is negative
  (1.0, 1.0, 0.0): 0.0,
  (np.nan, 1.0, 1.0): 1.5,  # neutral
}


def test_severities_are_a_line_that_is_cut():
  rows = np.array([*SEVERITIES], np.float32).T[:, None]
  scores = dict(zip("abg", rows, strict=True))
  weights = {"a": 30.0, "b": 20.0, "g": 1.0}
  there = np.ones(rows[0].shape, bool)
  run = lambda **more: cases.run(
    composition.discrepancy, scores, there, weights, gate="g", **more
  )
  signal, mask = run(failed=25.0)
  np.testing.assert_allclose(signal[0], [*SEVERITIES.values()], rtol=1e-6)
  assert mask.all()
  _, mask = run()
  assert mask[0].tolist() == [True] * 6 + [False]
  scores["g"] = np.full_like(there, np.nan, np.float32)
  assert not run()[1].any()  # no gate, no score


def test_past_the_bound_faults_cost_the_same_and_a_gate_stays_below_all():
  """An edit that is not done earns nothing by what it keeps."""
  rng = np.random.default_rng(0)
  shape, weights = (20, 40), {"a": 3.0, "b": 2.0, "c": 1.0, "g": 1.0}
  scores = {k: rng.random(shape).astype(np.float32) for k in weights}
  scores["a"][:5] = 0
  scores["g"][:, :4] = 0
  run = lambda scores: cases.run(
    composition.discrepancy, scores, np.ones(shape, bool), weights, gate="g",
    most=3.0,
  )[0]  # fmt: skip
  signal = run(scores)
  faults = sum(weights[k] * (1 - scores[k].astype(np.float64)) for k in "abc")
  want = np.where(scores["g"] > 0, 1 + np.maximum(1 - faults / 3, 0), 0)
  np.testing.assert_allclose(signal, want, rtol=1e-5)
  np.testing.assert_array_equal(signal[:5, 4:], 1)
  assert (signal > 1).any() and signal[:, 4:].min() > signal[:, :4].max()
  for name in "abc":
    better = {**scores, name: np.minimum(scores[name] + 0.2, 1)}
    assert (run(better) >= signal).all()


@pytest.mark.parametrize(
  ("compose", "options", "says"),
  [
    ("own_and_others", dict(own="a", others=("b", "c"), share=2.0), "share=2"),
    ("own_and_others", dict(own="a", others="b"), "every reward once"),
    ("own_and_others", dict(own="a", others=("b", "z")), "others"),
    ("discrepancy", dict(most=0.0), "most=0.0"),
    ("discrepancy", dict(failed=-1.0), "failed=-1.0"),
    ("discrepancy", dict(gate="z"), "gate"),
  ],
)
def test_options_of_rubrics_and_severities(compose, options, says):
  scores, mask = cases.draw(0)
  with pytest.raises(UserError, match=says):
    composition.REGISTRY[compose](scores, mask, cases.WEIGHTS, **options)
