"""Curation of preferences, on planted utilities and flipped labels."""

import numpy as np
import pytest

from jaxreward import config as config_lib
from jaxreward.data.preferences import Preferences
from jaxreward.errors import UserError
from jaxreward.methods import asks
from jaxreward.reward_models import curation
from jaxreward.setup import curation as setup
from jaxreward.setup import reward_model


def planted(flipped, pairs=1200, size=6, seed=0):
  """(features, true answers, labels of which a share is flipped, prompts)."""
  generator = np.random.default_rng(seed)
  features = generator.normal(size=(pairs, size))
  utility = features @ np.random.default_rng(99).normal(size=size)
  true = (utility > 0).astype(float)
  flips = generator.uniform(size=pairs) < flipped
  label = np.where(flips, 1 - true, true)
  return features, true, label, np.arange(pairs) // 4


def margins_of(features, label, prompt, members=5):
  return curation.cross_margins(features, label, prompt, members=members)[0]


def held_out(features, label):
  """Accuracy on new pairs of a model that remembers every label it was given."""
  valid = np.isfinite(label)
  new, true, _, _ = planted(0.0, pairs=400, seed=1)
  distance = ((new[:, None] - features[valid]) ** 2).sum(-1)
  return (label[valid][distance.argmin(1)] == true).mean()


def test_the_proxy_is_the_minimum_of_its_loss():
  features, _, label, _ = planted(0.3, pairs=200)
  weight = np.random.default_rng(1).uniform(size=200)
  w = curation.fit(features, label, weight, ridge=0.05)

  def loss(w):
    d = features @ w
    terms = label * np.logaddexp(0, -d) + (1 - label) * np.logaddexp(0, d)
    return (weight * terms).sum() / weight.sum() + 0.025 * w @ w

  for direction in np.eye(len(w)):
    slope = (loss(w + 1e-5 * direction) - loss(w - 1e-5 * direction)) / 2e-5
    assert abs(slope) < 1e-8


def test_no_proxy_has_met_the_prompt_that_it_judges():
  features, _, label, prompt = planted(0.3, pairs=200)
  before = margins_of(features, label, prompt)
  label[prompt == 7] = 1 - label[prompt == 7]
  after = margins_of(features, label, prompt)
  np.testing.assert_array_equal(before[prompt == 7], after[prompt == 7])
  assert (before[prompt != 7] != after[prompt != 7]).any()


def test_strength():
  mean, std = curation.strength(
    np.array([1.0, 0.0]), np.array([[1, 0.5, -0.5, 2], [-1, -0.5, 0.5, -2]])
  )
  np.testing.assert_allclose(mean, 0.75)
  np.testing.assert_allclose(std, 0.901388, atol=1e-6)


def test_strength_restores_flipped_labels():
  features, true, label, prompt = planted(0.2)
  result = curation.preference_strength(
    label, margins_of(features, label, prompt), soften=0.0
  )
  flipped = label != true
  assert (result[flipped] == true[flipped]).mean() > 0.8
  assert (result == true).mean() > 0.9
  assert held_out(features, result) > held_out(features, label)


def test_shares_of_strength():
  label, margin = np.array([1.0, 0, 1, 0.5, 1]), np.array([-3.0, 2, -1, -9, 4])
  result = curation.preference_strength(
    label, margin[:, None], flip=0.25, soften=0.25, smoothing=0.1
  )
  np.testing.assert_allclose(result, [0, 0.1, 1, 0.5, 1])
  same = curation.preference_strength(label, margin[:, None], flip=0, soften=0)
  np.testing.assert_array_equal(same, label)
  with pytest.raises(UserError, match=r"soften=0\.5"):
    curation.preference_strength(label, margin[:, None], flip=0.6, soften=0.5)


def test_consensus_keeps_the_truth_and_is_stable():
  features, true, label, prompt = planted(0.3)
  precision = [0.7]
  kept = np.ones(len(label), bool)
  for _ in range(2):
    margins = margins_of(features[kept], label[kept], prompt[kept])
    result = curation.consensus(label[kept], margins)
    kept[kept] = np.isfinite(result)
    precision.append((label[kept] == true[kept]).mean())
  assert precision[1] > 0.9 and precision[2] >= precision[1]
  assert held_out(features[kept], label[kept]) > held_out(features, label)
  # Without noise nothing is turned round; with it what is surely wrong is.
  clean = curation.consensus(true, margins_of(features, true, prompt))
  valid = np.isfinite(clean)
  np.testing.assert_array_equal(clean[valid], true[valid])
  turned = curation.consensus(
    label, margins_of(features, label, prompt), flip_above=0.7
  )
  was = np.isfinite(turned) & (turned != label)
  assert was.sum() > 20 and (turned[was] == true[was]).mean() > 0.9
  agreed = curation.consensus(np.array([1.0, 0.5]), np.ones((2, 3)))
  np.testing.assert_array_equal(agreed, [1, np.nan])


def test_coteaching_keeps_clean_pairs():
  features, true, label, prompt = planted(0.4)
  result = curation.coteach(label, features, prompt, noise=0.4)
  kept = np.isfinite(result)
  assert kept.mean() == pytest.approx(0.6, abs=0.01)
  assert (label[kept] == true[kept]).mean() > 0.8
  assert held_out(features, result) > held_out(features, label)
  same = curation.coteach(label, features, prompt, noise=0.0)
  np.testing.assert_array_equal(same, label)


def test_a_model_is_fitted_to_what_its_peer_chose():
  features, _, label, _ = planted(0.3, pairs=60)
  weights = [np.eye(6)[0], -np.eye(6)[1]]
  new = curation.taught(weights, features, label, 20)
  for model, peer in zip(new, weights[::-1], strict=True):
    loss = np.logaddexp(0, np.where(label > 0.5, -1, 1) * (features @ peer))
    part = np.argsort(loss, kind="stable")[:20]
    want = curation.fit(features[part], label[part])
    np.testing.assert_allclose(model, want, atol=1e-6)


def test_new_labels_stand_on_both_sides_of_the_diagonal(monkeypatch):
  """All labels are turned round, and ties stay."""
  nan, generator = np.nan, np.random.default_rng(0)
  prob = np.tile(np.float32([[nan, 1], [0, nan]]), (6, 1, 1))
  prob[5] = [[nan, 0.5], [0.5, nan]]
  none = np.arange(12, dtype=np.int32).reshape(6, 2)
  rows = Preferences(
    images=none, tokens=none, category=none[:, 0], members=none, prob=prob,
    score=none * nan, strict=none * nan, source=none,
  )  # fmt: skip
  found = generator.normal(size=(6, 2, 3)), generator.normal(size=(6, 3))
  monkeypatch.setattr(setup, "features_of", lambda *_: found)
  monkeypatch.setattr(setup.processes, "is_first", lambda: False)
  config = config_lib.load(
    "configs/recipes/preference_strength_curation.py:smoke",
    [
      ("train_reward.curation.flip", "1"),
      ("train_reward.curation.soften", "0"),
    ],
  )
  model = reward_model.make(config)
  new, counts = setup.curated(config, model, dict, rows, lambda index: index)
  np.testing.assert_array_equal(new.prob, 1 - prob)
  assert counts == {"pairs": 6, "kept": 6, "turned": 5, "softened": 0}


def test_the_smallest_losses():
  loss = np.array([3.0, 1, 2, 1])
  assert curation.smallest(loss, 2).tolist() == [False, True, False, True]
  assert curation.smallest(loss, 0).sum() == 0


def test_distance_to_neighbours_measures_volume(monkeypatch):
  monkeypatch.setattr(curation, "_MOST", 64)
  x = np.random.default_rng(0).uniform(size=(300, 2))
  distance = curation.neighbour_distance(x, 3)
  expected = np.sort(np.linalg.norm(x[7] - x, axis=1))[3]
  assert distance[7] == pytest.approx(expected)
  # Twice the side: log 2 per row, whatever the number of rows.
  twice = curation.neighbour_distance(2 * x, 3)
  np.testing.assert_allclose(np.log(twice / distance), np.log(2), atol=1e-6)


def test_importance_and_diversity():
  features, true, label, prompt = planted(0.2)
  margins = margins_of(features, label, prompt)
  embeddings = np.zeros((len(label), 2))
  alone = curation.importance(
    label, margins, embeddings, prompt, share=0.3, diversity=0.0
  )
  kept = np.isfinite(alone)
  mean = curation.strength(label, margins)[0]
  assert mean[kept].min() >= mean[~kept].max()
  assert (label[kept] != true[kept]).mean() < 0.02 < (label != true).mean()
  # Two prompts far from a crowd of equal ones are kept first.
  embeddings[prompt == 3], embeddings[prompt == 9] = (9, 0), (0, 9)
  far = curation.importance(
    label, margins, embeddings, prompt, share=8 / 1200, diversity=50.0
  )
  assert set(prompt[np.isfinite(far)]) == {3, 9}


def test_aligned_pairs_and_extremes():
  scores = np.array([[5.0, 1], [0, 4], [3, 2], [1, 2], [9, 9]])
  label, prompt = np.array([1.0, 0, 0, 1, 0.5]), np.array([0, 0, 1, 1, 1])
  kept = curation.aligned(label, scores, share=0.6)
  np.testing.assert_array_equal(kept, [1, 0, np.nan, np.nan, 0.5])
  ends = curation.extremes(label, scores, prompt)
  np.testing.assert_array_equal(ends, [1, np.nan, 0, np.nan, np.nan])
  # Half of the pairs are a mismatch: the top of the scores has few of them.
  generator = np.random.default_rng(0)
  matched = np.arange(600) % 2 == 0
  chosen = generator.normal(size=600) + 2 * matched
  pairs = np.stack([chosen, chosen - 1], 1)
  precision = [
    matched[np.isfinite(curation.aligned(np.ones(600), pairs, share=p))].mean()
    for p in (0.1, 0.3, 1.0)
  ]
  assert precision[0] > precision[1] > precision[2] == 0.5
  assert precision[0] > 0.95


def test_methods_read_what_there_is():
  for fn in curation.CURATION.values():
    assert set(asks(fn)) <= set(curation.OFFERS)


def test_pairs_whose_better_image_is_much_larger_are_dropped():
  sizes = np.array([[3.0, 1], [1, 3], [1.4, 1], [3, 1], [3, 1]])
  label = np.array([1.0, 0, 1, 0, 0.5])
  got = curation.of_like_size(label, sizes, most=1.5)
  np.testing.assert_array_equal(got, [np.nan, np.nan, 1, 0, 0.5])
  with pytest.raises(UserError, match=r"most=0\.5"):
    curation.of_like_size(label, sizes, most=0.5)


def test_without_them_size_is_not_what_is_learned():
  """Quality decides, and people fall for size besides; too tight a limit overshoots."""
  rng = np.random.default_rng(5)
  quality, size = rng.normal(size=(2, 4000, 2))
  size = 0.5 * size
  x = np.stack([q[:, 0] - q[:, 1] for q in (quality, size)], 1)
  noise = rng.logistic(size=4000)
  label = (x @ np.array([1.0, 1.5]) + noise > 0).astype(float)

  def weight(most):
    kept = np.isfinite(curation.of_like_size(label, np.exp(size), most=most))
    return curation.fit(x[kept], label[kept], ridge=1e-6)

  before, after, tight = (weight(most) for most in (1e9, 2.0, 1.2))
  assert before[1] > 1.2 and abs(after[1]) < 0.3 and tight[1] < -1
  np.testing.assert_allclose(after[0], before[0], atol=0.15)
