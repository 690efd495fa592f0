"""Calibration of pair probabilities, against draws with a known answer."""

import numpy as np
import pytest

from jaxreward.reward_models import accuracy, calibration


def drawn(temperature, count=200_000, seed=0):
  """Differences whose preferred side was drawn with sigmoid(d / T)."""
  generator = np.random.default_rng(seed)
  d = generator.normal(size=count) * 2
  first = generator.random(count) < 1 / (1 + np.exp(-d / temperature))
  return np.where(first, d, -d)


@pytest.mark.turns(3)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found(temperature):
  found = calibration.fit_temperature(drawn(temperature))
  np.testing.assert_allclose(found, temperature, rtol=0.03)


def test_temperature_minimises_the_loss():
  d = drawn(1.7, 2000)
  loss = lambda t: np.logaddexp(0, -d / t).mean()
  best = calibration.fit_temperature(d)
  assert loss(best) <= min(loss(best * 1.02), loss(best / 1.02))


def test_temperature_scales_with_the_scores():
  d = drawn(1.0, 5000)
  one, ten = (calibration.fit_temperature(k * d) for k in (1, 10))
  np.testing.assert_allclose(ten, 10 * one, rtol=1e-6)


def test_temperature_at_the_ends():
  assert calibration.fit_temperature(np.array([1.0, 2.0]), low=0.01) == 0.01
  assert calibration.fit_temperature(np.array([-1.0, -2.0]), high=50.0) == 50.0
  with pytest.raises(ValueError, match="finite"):
    calibration.fit_temperature(np.array([np.nan]))


def test_calibrated_probabilities_have_little_error_and_others_much():
  d = drawn(1.0)
  assert calibration.expected_calibration_error(d) < 0.01
  assert calibration.expected_calibration_error(5 * d) > 0.1
  assert calibration.expected_calibration_error(5 * d, temperature=5.0) < 0.01


def test_error_by_hand():
  logit = lambda p: np.log(p / (1 - p))
  # One bin of two pairs at 0.9, one of them wrong; one of one pair at 0.6.
  d = np.array([logit(0.9), -logit(0.9), logit(0.6)])
  expected = (2 * abs(0.9 - 0.5) + abs(0.6 - 1.0)) / 3
  found = calibration.expected_calibration_error(d, bins=5)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_reliability_counts_every_finite_pair_once():
  d = np.array([0.0, 1e3, -1e3, np.nan, 0.4])
  found = calibration.reliability(d, bins=4)
  assert found.count.sum() == 4
  assert found.accuracy[0] == 0.75  # an equal pair is half right
  assert found.accuracy[-1] == 0.5
  assert np.isnan(found.accuracy[2])


def test_pair_accuracy_counts_ties_half_and_failures_wrong():
  scores = np.array([[1, 0], [0, 1], [2, 2], [np.nan, 0], [3, 0]], float)
  assert accuracy.pair_accuracy(scores) == (2.5, 5)
  mask = np.array([True, False, True, False, False])
  assert accuracy.pair_accuracy(scores, mask) == (1.5, 2)
  assert accuracy.pair_accuracy(np.zeros((0, 2))) == (0.0, 0)
