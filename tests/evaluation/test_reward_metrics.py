"""Metrics of rewards, against enumeration, scipy and planted answers."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jaxreward.evaluation.reward_models import (
  consistency,
  pairs,
  probes,
  ranks,
)

A = np.array


@pytest.fixture
def generator():
  return np.random.default_rng(0)


def test_every_labeled_pair_is_read_once():
  prob = np.full((2, 3, 3), np.nan)
  prob[0, 0, 1], prob[0, 1, 0] = 0.2, 0.8
  prob[1, 0, 2] = prob[1, 2, 0] = 0.5
  table = pairs.labeled(prob)
  assert table.row.tolist() == [0, 1]
  assert table.columns.tolist() == [[0, 1], [0, 2]]
  assert table.answer.tolist() == [-1, 0]
  d = pairs.differences(np.array([[1.0, 4.0, 0.0], [2.0, 0.0, 2.5]]), table)
  assert d.tolist() == [-3.0, -0.5]
  assert pairs.right(d, table.answer).tolist() == [1.0, 0.0]
  assert pairs.right(d, table.answer, 0.5).tolist() == [1.0, 1.0]
  assert pairs.right(A([np.nan, np.nan]), A([1, 0]), np.inf).tolist() == [
    0.0,
    0.0,
  ]


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_tie_threshold_is_the_best_of_all(generator, scale):
  for _ in range(30):
    d = np.round(generator.normal(size=12) * scale, 1)
    answer = generator.integers(-1, 2, 12)
    threshold = pairs.tie_threshold(d, answer)
    options = [0.0, *np.unique(np.abs(d))]
    accuracy = [pairs.right(d, answer, t).mean() for t in options]
    assert pairs.right(d, answer, threshold).mean() == max(accuracy)
    assert threshold == options[int(np.argmax(accuracy))]


def test_ties_are_judged_at_the_threshold_of_the_other_half():
  d = np.tile([2.0, -2.0, 0.1, -0.1], 20)
  answer = np.tile([1, -1, 0, 0], 20)
  right = pairs.accuracy_with_ties(d, answer, np.repeat(np.arange(20), 4))
  assert right.mean() == 1.0
  # A half with other ties: its threshold does not help the other one.
  d[np.arange(80) // 4 % 2 == 0] *= 100
  right = pairs.accuracy_with_ties(d, answer, np.repeat(np.arange(20), 4))
  assert right.mean() == 0.5


@pytest.mark.parametrize("n", [2, 3, 5])
def test_regret_is_the_mean_over_all_subsets(generator, n):
  scores = generator.integers(0, 4, 7).astype(float)  # some are equal
  gold = generator.normal(size=7)
  best, chosen = [], []
  for subset in map(list, itertools.combinations(range(7), n)):
    top = scores[subset] == scores[subset].max()
    chosen.append(gold[subset][top].mean())
    best.append(gold[subset].max())
  # Equal scores are broken at random once for all images, as here per subset.
  expected = (np.mean(best) - np.mean(chosen)) / (np.mean(best) - gold.mean())
  assert pairs.best_of_n_regret(scores, gold, n) == pytest.approx(expected)


def test_limits_of_regret():
  gold = np.array([0.0, 1.0, 5.0, 2.0])
  assert pairs.best_of_n_regret(gold, gold, 2) == pytest.approx(0)
  assert pairs.best_of_n_regret(np.ones(4), gold, 3) == pytest.approx(1)
  assert pairs.best_of_n_regret(-gold, gold, 3) > 1
  assert math.isnan(pairs.best_of_n_regret(gold, np.ones(4), 2))
  assert math.isnan(pairs.best_of_n_regret(A([1, np.nan]), A([1.0, 2]), 2))


def test_the_right_one_of_four():
  scores = A([[3, 1, 2, 0], [3, 3, 2, 0], [0, 1, 1, 1], [np.nan, 1, 0, 0]])
  is_right = np.eye(4, dtype=bool)[[0, 0, 0, 0]]
  assert pairs.picked(scores, is_right).tolist() == [1.0, 0.5, 0.0, 0.0]
  prob = np.full((2, 5, 5), np.nan)
  prob[1, 2] = [1, 1, 0.5, 1, 1]
  row, columns = pairs.one_of_four(prob, np.random.default_rng(0))
  assert row.tolist() == [1]
  assert columns[0, 0] == 2
  assert set(columns[0, 1:]) < {0, 1, 3, 4}


def test_the_score_of_ties(generator):
  golden = pairs.ties_score([A([5, 4.5, 4])], [A([2, 1])], A([0.4]))
  assert golden == pytest.approx(0.3 + 0.3 + 0.2 + 0.01 * math.tanh(-0.6))
  assert golden == pytest.approx(0.794630, abs=1e-6)
  assert pairs.ties_score([A([2, 2])], [A([1])]) == pytest.approx(1.01)
  right, wrong = generator.normal(A([[[0.5]], [[0]]]), size=(2, 6, 3))
  gap = generator.normal(size=6)
  same = pairs.ties_score([*(3 * right + 1)], [*(3 * wrong + 1)], 3 * gap)
  assert same == pytest.approx(pairs.ties_score([*right], [*wrong], gap))
  lists = pairs.ties_of(
    np.array([[1.0, 2, 3, np.nan], [1, 2, 3, 4]]),
    np.array([[1.0, 1, 0, 1], [1, 0, 0, 0]]),
  )
  assert [x[0].tolist() for x in lists] == [[1, 2], [3]]


def test_rank_correlations_are_scipys(generator):
  for _ in range(20):
    a, b = generator.integers(0, 5, (2, 9)).astype(float)
    tau = stats.kendalltau(a, b).statistic
    assert ranks.kendall(a, b) == pytest.approx(tau)
    assert ranks.spearman(a, b) == pytest.approx(
      stats.spearmanr(a, b).statistic
    )
  assert math.isnan(ranks.spearman(A([1.0, 1]), A([1.0, 2])))
  table = ranks.per_prompt(
    A([[1, 2, 3], [1, np.nan, 3]]), A([[1.0, 2, 3], [3, 0, 1]])
  )
  assert table["spearman"].tolist() == [1, -1]
  assert table["kendall"].tolist() == [1, -1]


def test_models_are_compared_apart_from_their_prompts(generator):
  """A model that drew for hard prompts alone keeps its place."""
  quality, model = np.array([0.0, 1.0, 2.0]), np.array([[0, 1], [1, 2]] * 4)
  hard = np.array([[0.0], [-50.0]] * 4)
  gold = quality[model] + hard
  result = ranks.per_model(2 * quality[model] + 7 * hard, gold, model)
  assert result == {"models": 3, "spearman": 1.0, "kendall": 1.0}
  assert ranks.per_model(-gold, gold, model)["kendall"] == -1.0


def test_starc_distance(generator):
  a, b, c = generator.normal(size=(3, 6, 5))
  offset = generator.normal(size=(6, 1))
  assert ranks.starc(a, 3 * a + offset) == pytest.approx(0, abs=1e-7)
  assert ranks.starc(a, -a) == pytest.approx(2)
  assert ranks.starc(a, b) == pytest.approx(ranks.starc(b, a))
  assert ranks.starc(a, c) <= ranks.starc(a, b) + ranks.starc(b, c)
  centered = [x - x.mean(1, keepdims=True) for x in (a, b)]
  rho = np.corrcoef(*(x.ravel() for x in centered))[0, 1]
  assert ranks.starc(a, b) ** 2 == pytest.approx(2 * (1 - rho))
  assert ranks.starc(a, np.ones_like(a)) == pytest.approx(1)
  holes = np.where(np.arange(5) == 2, np.nan, a)
  assert ranks.starc(holes, b) == pytest.approx(
    ranks.starc(a[:, [0, 1, 3, 4]], b[:, [0, 1, 3, 4]])
  )


def test_starc_bounds_the_regret(generator):
  """The nearer reward of a pair leads to no more regret on the average."""
  gold = generator.normal(size=(400, 6))
  regret, distance = [], []
  for noise in (0.1, 0.5, 1.0, 2.0, 8.0):
    proxy = gold + noise * generator.normal(size=gold.shape)
    best = np.take_along_axis(gold, proxy.argmax(1)[:, None], 1)[:, 0]
    regret.append(float((gold.max(1) - best).mean()))
    distance.append(ranks.starc(proxy, gold))
  assert regret == sorted(regret)
  assert distance == sorted(distance)


def test_contrasting_prompts(generator):
  means = lambda block: {
    k: v.mean() for k, v in consistency.contrast(block).items()
  }
  own = np.broadcast_to(np.eye(2), (50, 2, 2))
  assert set(means(own).values()) == {1.0}
  images = np.broadcast_to(generator.normal(size=(50, 1, 2)), (50, 2, 2))
  blind = means(images)  # the prompt is ignored
  assert (blind["prompts"], blind["images"]) == (0.0, 0.5)
  prompts = np.broadcast_to(generator.normal(size=(50, 2, 1)), (50, 2, 2))
  blind = means(prompts)  # the image is ignored
  assert (blind["images"], blind["prompts_centered"]) == (0.0, 0.0)
  # An offset per prompt changes the raw number alone, exp neither of images.
  shifted = means(own + 9 * prompts)
  assert shifted["images"] == shifted["prompts_centered"] == 1.0
  assert shifted["prompts"] < 1.0
  noise = generator.normal(size=(4000, 2, 2))
  for value in means(noise).values():
    assert abs(value - 0.5) < 0.03
  assert means(np.exp(noise))["images"] == means(noise)["images"]


def test_order_and_shift():
  first = np.array([[1.0, 2, 3], [1, 1, 1]])
  order = consistency.same_order(first, A([[3.0, 2, 4], [1, 2, 3]]))
  assert order[0] == pytest.approx(2 / 3)
  assert math.isnan(order[1])
  assert consistency.same_order(first, 5 * first)[0] == 1.0
  shift = consistency.relative_shift(
    A([[0.0, 2], [1, 3]]), A([[1.0, 3], [1, np.nan]])
  )
  assert shift.tolist() == [1.0, 0.0]


def test_sensitivity_to_severity():
  rows = A([[4, 3, 2, 1], [4, 3, 3, 1], [1, 2, 3, 4], [1, 2, np.nan, 0]])
  result = consistency.sensitivity(rows)
  assert result["monotone"] == pytest.approx([1, 2 / 3, 0, 0])
  assert result["always"].tolist() == [1, 0, 0, 0]
  assert result["noticed"].tolist() == [1, 1, 0, 1]


def test_probes(generator):
  features = generator.normal(size=(600, 5))
  label = (features @ [1.0, -2, 0, 0, 0.5] > 0).astype(int)
  labels = {"there": label, "absent": generator.integers(0, 2, 600)}
  prompt = np.repeat(np.arange(200), 3)
  table = probes.by_aspect(features, labels, prompt)
  assert table["there"]["accuracy"] > 0.95
  assert abs(table["there"]["control"] - 0.5) < 0.1
  assert abs(table["absent"]["accuracy"] - 0.5) < 0.1
  assert "single" not in probes.by_aspect(
    features, {"single": 0 * label}, prompt
  )
  # An invertible map and a repeated direction change nothing.
  turn = generator.normal(size=(5, 5))
  moved = np.concatenate([features @ turn, features[:, :1]], 1) + 3.0
  assert probes.by_aspect(moved, labels, prompt) == table


def test_a_probe_is_the_ridge_regression(generator):
  features = generator.normal(size=(40, 3)) * [1, 5, 0.2] + 2
  label = generator.integers(0, 3, 40)
  probe = probes.fit(features, label, ridge=0.3)
  z = (features - probe.mean) @ probe.whiten
  np.testing.assert_allclose(z.T @ z / 40, np.eye(3), atol=1e-12)
  target = np.eye(3)[label] - probe.bias
  gradient = z.T @ (z @ probe.weights - target) / 40 + 0.3 * probe.weights
  np.testing.assert_allclose(gradient, 0, atol=1e-12)
  np.testing.assert_allclose(probe.centroids[1], z[label == 1].mean(0))
  assert probes.distance(probe, features)[0] == pytest.approx(
    min(np.linalg.norm(z[0] - c) for c in probe.centroids)
  )


def test_gaps_and_the_asymmetry_of_judging_and_optimizing():
  gap = pairs.shift_gap({"a": 0.75, "b": 0.5}, {"a": 0.5, "b": 0.5})
  assert gap == {"a": 0.25, "b": 0.0}
  judged = {"sharp": 0.9, "smooth": 0.7, "rough": 0.8, "unused": 0.1}
  reached = {"sharp": 1.0, "smooth": 3.0, "rough": 2.0}
  result = pairs.asymmetry(judged, reached)
  assert result["rewards"] == ["rough", "sharp", "smooth"]
  assert result["asymmetry"] == pytest.approx(2.0)
  assert pairs.asymmetry(reached, reached)["asymmetry"] == pytest.approx(0.0)


def test_the_better_assessor_is_the_worse_objective(generator):
  """The oracle with fine ripples ranks best, and its gradient leads nowhere."""
  target, ripple, rate = 0.3, 200.0, 5e-4
  oracle = lambda x: -np.square(x - target).sum(-1)
  other = generator.normal(size=8)  # that the smooth reward looks at too
  rewards = {
    "rippled": lambda x: oracle(x) + 0.05 * np.sin(ripple * x).sum(-1),
    "smooth": lambda x: oracle(x) + 0.5 * x @ other,
  }
  gradients = {
    "rippled": lambda x: 2 * (target - x) + 0.05 * ripple * np.cos(ripple * x),
    "smooth": lambda x: 2 * (target - x) + 0.5 * other,
  }
  images = generator.normal(size=(500, 8))
  start = generator.normal(size=(20, 8)) + 2.0
  judged, reached = {}, {}
  for name, gradient in gradients.items():
    x = start
    for _ in range(4000):
      x = x + rate * gradient(x)
    reached[name] = float(oracle(x).mean())
    judged[name] = ranks.spearman(rewards[name](images), oracle(images))
  assert judged["rippled"] > 0.99 > judged["smooth"]
  assert reached["rippled"] < -20 < -1 < reached["smooth"]
  assert pairs.asymmetry(judged, reached)["asymmetry"] == pytest.approx(2.0)
