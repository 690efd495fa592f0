"""Preference losses against float64 formulas, by hand and by differences."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxreward import reward_models as rm
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

# Losses of pairs that read no ratings; the others are in test_graded_losses.
_READ = {"scores", "stds", "label_prob", "mask"}
PAIRWISE = sorted(
  n for n, f in rm.REGISTRY.items() if set(rm.reads(f)) <= _READ
)
LABELS = np.array([1.0, 0.0, 0.5, 1.0, 0.25, 0.8, 0.0])


def log_sigmoid(x):
  return -np.logaddexp(0.0, -x)


def oracle_bradley_terry(s, p, margin=0.0, label_noise=0.0):
  d = s[:, 0] - s[:, 1]
  p = label_noise * (1 - p) + (1 - label_noise) * p
  return -(p * log_sigmoid(d - margin) + (1 - p) * log_sigmoid(-d - margin))


def oracle_rao_kupper(s, p, threshold=2.0):
  a, b = np.exp(s[:, 0]), np.exp(s[:, 1])
  first, second = a / (a + threshold * b), b / (b + threshold * a)
  tie = 1 - first - second
  w = np.stack([np.maximum(2 * p - 1, 0), np.maximum(1 - 2 * p, 0)])
  return -(
    w[0] * np.log(first) + w[1] * np.log(second) + (1 - w.sum(0)) * np.log(tie)
  )


def oracle_hinge(s, p, margin=1.0):
  d = s[:, 0] - s[:, 1]
  return p * np.maximum(margin - d, 0) + (1 - p) * np.maximum(margin + d, 0)


def spread(stds):
  return np.sqrt((np.asarray(stds, np.float64) ** 2).sum(-1))


def oracle_thurstone(s, p):
  z = (s[:, 0] - s[:, 1]) / spread(deviations(s))
  log_phi = scipy.stats.norm.logcdf
  return -p * log_phi(z) - (1 - p) * log_phi(-z)


def oracle_fidelity(s, p):
  first = scipy.stats.norm.cdf((s[:, 0] - s[:, 1]) / spread(deviations(s)))
  return 1 - np.sqrt(p * first) - np.sqrt((1 - p) * (1 - first))


def oracle_focal(s, p, gamma=2.0):
  first = 1 / (1 + np.exp(s[:, 1] - s[:, 0]))
  right = p * (1 - first) ** gamma * np.log(first)
  return -right - (1 - p) * first**gamma * np.log(1 - first)


def oracle_expected_bradley_terry(s, p, margin=0.0, nodes=16):
  """By a fine grid, not by quadrature."""
  x = np.linspace(-9, 9, 20001)
  weight = np.exp(-x * x / 2)
  weight /= weight.sum()
  z = (s[:, 0] - s[:, 1])[:, None] + spread(deviations(s))[:, None] * x
  first = -(log_sigmoid(z - margin) * weight).sum(1)
  second = -(log_sigmoid(-z - margin) * weight).sum(1)
  return p * first + (1 - p) * second


def deviations(scores):
  """The same for whatever scores; the first image is surer."""
  row = np.array([0.4, 0.7], np.float32)
  return np.broadcast_to(row, np.shape(scores))


def _with_others(loss):
  """A loss of scores and labels, with what else it reads."""

  def run(scores, label_prob=1.0, mask=None, **options):
    arrays = dict(scores=scores, label_prob=label_prob, mask=mask)
    arrays["stds"] = deviations(scores)
    return loss(**{n: arrays[n] for n in rm.reads(loss)}, **options)

  return run


LOSSES = {name: _with_others(loss) for name, loss in rm.REGISTRY.items()}
ORACLES = {
  "thurstone": oracle_thurstone,
  "fidelity": oracle_fidelity,
  "focal": oracle_focal,
  "expected_bradley_terry": oracle_expected_bradley_terry,
  "bradley_terry": oracle_bradley_terry,
  "rao_kupper": oracle_rao_kupper,
  "hinge": oracle_hinge,
}
BOUNDED = ("fidelity",)  # at 1 for a pair, however wrong it is


def some_scores(seed=0, shape=(7, 2)):
  return np.random.default_rng(seed).normal(size=shape) * 2


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PAIRWISE)
def test_matches_the_formula(name):
  scores = some_scores()
  found = LOSSES[name](scores.astype(np.float32), LABELS)
  expected = ORACLES[name](scores, LABELS)
  np.testing.assert_allclose(found.total, expected.sum(), rtol=1e-5)
  assert found.weight == 7


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("bradley_terry", dict(margin=0.7)),
    ("bradley_terry", dict(label_noise=0.1)),
    ("rao_kupper", dict(threshold=1.3)),
    ("hinge", dict(margin=0.2)),
    ("focal", dict(gamma=0.5)),
    ("expected_bradley_terry", dict(margin=0.57)),
  ],
)
def test_options_match_the_formula(name, options):
  scores = some_scores(1)
  found = LOSSES[name](scores, LABELS, **options).value()
  expected = ORACLES[name](scores, LABELS, **options).mean()
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PAIRWISE)
def test_gradient_matches_finite_differences(name):
  scores = some_scores(2)
  grad = jax.grad(lambda s: LOSSES[name](s, LABELS).total)(
    jnp.asarray(scores, jnp.float32)
  )
  expected = numeric_gradient(lambda s: ORACLES[name](s, LABELS).sum(), scores)
  np.testing.assert_allclose(grad, expected, atol=2e-5)


@pytest.mark.parametrize("name", PAIRWISE)
def test_only_differences_count_and_labels_mirror(name):
  loss = LOSSES[name]
  scores = some_scores(3).astype(np.float32)
  shifted = loss(scores + np.float32(4.0), LABELS).total
  mirrored = loss(scores[:, ::-1], 1 - LABELS).total
  np.testing.assert_allclose(shifted, loss(scores, LABELS).total, rtol=1e-5)
  np.testing.assert_allclose(mirrored, loss(scores, LABELS).total, rtol=1e-6)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PAIRWISE)
def test_unanswered_and_masked_pairs_reach_nothing(name):
  loss = LOSSES[name]
  scores = some_scores(4, (4, 2)).astype(np.float32)
  scores[2] = np.nan
  scores[3] = np.inf
  prob = np.array([1.0, 0.0, np.nan, 1.0], np.float32)
  mask = np.array([True, True, True, False])
  total = lambda s: loss(s, prob, mask).total
  value, grad = jax.value_and_grad(total)(jnp.asarray(scores))
  alone = loss(scores[:2], prob[:2])
  np.testing.assert_allclose(value, alone.total, rtol=1e-6)
  assert loss(scores, prob, mask).weight == 2
  assert np.isfinite(grad).all()
  assert not np.asarray(grad[2:]).any()


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PAIRWISE)
def test_nothing_answered_is_zero_with_zero_gradient(name):
  total = lambda s: LOSSES[name](s, jnp.nan).value()
  value, grad = jax.value_and_grad(total)(jnp.ones((3, 2)))
  assert value == 0
  assert not np.asarray(grad).any()


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PAIRWISE)
def test_extreme_scores_stay_finite(name):
  scores = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
  value, grad = jax.value_and_grad(lambda s: LOSSES[name](s).total)(scores)
  assert np.isfinite(value)
  assert np.isfinite(grad).all()
  # The second pair is wrong by 2e4.
  assert value == 1 if name in BOUNDED else value > 1e4


def gaussian(gap, std, margin=0.0):
  scores, stds = np.array([[gap, 0.0]]), np.full((1, 2), std)
  loss = rm.expected_bradley_terry(
    scores.astype(np.float32), stds.astype(np.float32), margin=margin
  )
  return float(loss.value())


def test_expected_bradley_terry_at_published_settings():
  np.testing.assert_allclose(gaussian(1, 0.5), 0.361241, atol=2e-6)
  np.testing.assert_allclose(gaussian(1, 0.5, 0.57), 0.557911, atol=2e-6)
  np.testing.assert_allclose(gaussian(1, 1e-6), 0.313262, atol=2e-6)
  grows = [gaussian(0, std) for std in (1e-6, 0.5, 1.0, 2.0)]
  assert grows == sorted(grows) and grows[0] >= math.log(2) - 1e-6


@pytest.mark.turns(2)
def test_thurstone_is_a_probability_that_unsureness_pulls_to_one_half():
  scores = np.array([[1.0, 0.0]], np.float32)
  p = []
  for std in (0.1, 1.0, 10.0):
    stds = np.full((1, 2), std, np.float32)
    first = math.exp(-rm.thurstone(scores, stds, 1.0).value())
    second = math.exp(-rm.thurstone(scores, stds, 0.0).value())
    assert first + second == pytest.approx(1.0, abs=1e-6)
    p.append(first)
  assert p[0] > p[1] > p[2] > 0.5
  grad = jax.grad(lambda s: rm.thurstone(scores, s, np.float32([0.0])).value())(
    jnp.full((1, 2), 0.5)
  )
  assert (grad < 0).all()  # where it is wrong, it is told to be less sure


def test_bradley_terry_at_equal_scores_is_log_two():
  found = rm.bradley_terry(jnp.zeros((5, 2))).value()
  np.testing.assert_allclose(found, math.log(2), rtol=1e-6)


def test_rao_kupper_probabilities_sum_to_one_and_ties_peak_at_equality():
  d = np.linspace(-4, 4, 17)
  scores = np.stack([d, np.zeros_like(d)], -1)
  p = [
    np.exp([-rm.rao_kupper(s, label, threshold=1.7).total for s in scores])
    for label in (1.0, 0.5, 0.0)
  ]
  np.testing.assert_allclose(np.sum(p, 0), 1.0, rtol=1e-5)
  assert np.argmax(p[1]) == 8


def test_rao_kupper_without_ties_nears_bradley_terry():
  scores = some_scores(5)
  close = rm.rao_kupper(scores, threshold=1 + 1e-6).value()
  np.testing.assert_allclose(close, rm.bradley_terry(scores).value(), rtol=1e-5)


def test_rao_kupper_refuses_a_threshold_without_ties():
  with pytest.raises(UserError, match="threshold=1"):
    rm.rao_kupper(jnp.zeros((1, 2)), threshold=1.0)


@pytest.mark.parametrize("chosen", [0.25, 0.6])
def test_a_hinge_on_cosines_is_half_of_a_triplet_of_unit_vectors(chosen):
  angles = np.arccos(np.array([1.0, chosen, 0.3]))
  text, good, bad = np.stack([np.cos(angles), np.sin(angles)], 1)
  far = lambda x: ((text - x) ** 2).sum()
  expected = max(0.0, far(good) - far(bad) + 0.3)
  cosines = jnp.array([[text @ good, text @ bad]])
  loss = rm.hinge(cosines, margin=0.15).total
  np.testing.assert_allclose(2 * loss, expected, atol=1e-6)


def test_hinge_is_zero_beyond_the_margin():
  assert rm.hinge(jnp.array([[2.0, 0.5]]), margin=1.0).total == 0
  np.testing.assert_allclose(
    rm.hinge(jnp.array([[0.5, 0.0]])).total, 0.5, rtol=1e-6
  )


def oracle_plackett_luce(s):
  return sum(np.log(np.exp(s[k:] - s[k]).sum()) for k in range(len(s)))


def test_plackett_luce_matches_the_formula():
  scores = some_scores(6, (3, 5))
  expected = sum(oracle_plackett_luce(row) for row in scores)
  np.testing.assert_allclose(
    rm.plackett_luce(scores).total, expected, rtol=1e-6
  )


def test_plackett_luce_is_a_distribution_over_orders():
  scores = some_scores(7, (4,))
  orders = np.array([scores[list(o)] for o in itertools.permutations(range(4))])
  p = np.exp([-rm.plackett_luce(order).total for order in orders])
  np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)


def test_plackett_luce_of_two_is_bradley_terry():
  scores = some_scores(8)
  np.testing.assert_allclose(
    rm.plackett_luce(scores).total, rm.bradley_terry(scores).total, rtol=1e-6
  )


@pytest.mark.turns(2)
def test_plackett_luce_leaves_masked_candidates_out():
  scores = some_scores(9, (2, 4)).astype(np.float32)
  scores[0, 1] = np.nan
  mask = np.array([[True, False, True, True], [False, False, True, False]])
  total = lambda s: rm.plackett_luce(s, mask).total
  value, grad = jax.value_and_grad(total)(jnp.asarray(scores))
  expected = oracle_plackett_luce(scores[0, [0, 2, 3]].astype(float))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert rm.plackett_luce(scores, mask).weight == 1
  assert np.isfinite(grad).all()
  assert grad[0, 1] == 0


@pytest.mark.turns(2)
def test_plackett_luce_gradient_matches_finite_differences():
  scores = some_scores(10, (4,))
  grad = jax.grad(lambda s: rm.plackett_luce(s).total)(
    jnp.asarray(scores, jnp.float32)
  )
  expected = [
    (
      oracle_plackett_luce(scores + 1e-6 * e)
      - oracle_plackett_luce(scores - 1e-6 * e)
    )
    / 2e-6
    for e in np.eye(4)
  ]
  np.testing.assert_allclose(grad, expected, atol=1e-5)
