"""Weights of rewards from comparisons: Newton's method, units, planted weights."""

import numpy as np
import pytest

from jaxreward.evaluation.reward_models import combination, judge


def newton(z, ridge):
  """The optimum of the unbounded problem."""
  w = np.zeros(z.shape[1])
  for _ in range(50):
    p = 1 / (1 + np.exp(z @ w))
    slope = -z.T @ p / len(z) + ridge * w
    curve = (z.T * (p * (1 - p))) @ z / len(z) + ridge * np.eye(len(w))
    w = w - np.linalg.solve(curve, slope)
  return w


def planted(count=300, seed=0):
  """(differences in unlike units, preferred first; their weights)."""
  generator = np.random.default_rng(seed)
  d = generator.normal(size=(count, 7)) * 10.0 ** np.arange(-3, 4)
  weights = np.array([3, -1, 0, 1, 2, 0.5, -2]) / 10.0 ** np.arange(-3, 4)
  return d * np.sign(d @ weights)[:, None], weights


def test_the_fit_is_newtons_and_knows_no_units():
  d, weights = planted()
  w, units = combination.fit(d)
  np.testing.assert_allclose(units, (d**2).mean(0) ** -0.5)
  np.testing.assert_allclose(w, newton(d * units, 1e-3), rtol=1e-4, atol=1e-4)
  truth = weights / units
  assert w @ truth > 0.98 * np.linalg.norm(w) * np.linalg.norm(truth)
  np.testing.assert_allclose(
    combination.fit(1e5 * d)[0], w, rtol=1e-4, atol=1e-4
  )
  least, _ = combination.fit(d, positive=True)
  assert least.min() == 0 > w.min()
  # Where the bound holds a weight back, the loss would fall below 0.
  z = d * units
  slope = -z.T @ (1 / (1 + np.exp(z @ least))) / len(z) + 1e-3 * least
  assert (slope[least == 0] > -1e-5).all()
  np.testing.assert_allclose(slope[least > 0], 0, atol=1e-5)


def test_limits_of_the_fit():
  d, _ = planted(40)
  d[:, 2] = 0.0
  d[3] = np.nan
  w, units = combination.fit(d)
  assert w[2] == units[2] == 0 < np.abs(w).min(where=w != 0, initial=9)
  np.testing.assert_allclose(w, combination.fit(np.delete(d, 3, 0))[0])
  assert not combination.fit(d[3:4])[0].any()
  assert np.abs(combination.fit(d, ridge=1e9)[0]).max() < 1e-6


@pytest.mark.parametrize("positive", [False, True])
def test_each_half_is_scored_with_weights_of_the_other(positive):
  generator = np.random.default_rng(1)
  scores = generator.normal(size=(3, 80, 4))
  gold = np.tensordot([2.0, 0.3, 0.0], scores, 1)
  prob = (gold[:, :, None] > gold[:, None]).astype(float)
  prob[:, np.arange(4), np.arange(4)] = np.nan
  labels = judge.Labels(prob, gold, np.arange(80) // 2, np.full(gold.shape, -1))
  names = dict(zip("abc", scores, strict=True))
  sums, weights = combination.combined(labels, names, positive=positive)
  accuracy = {
    name: judge.share(*judge.pair_outcomes(labels, x))["accuracy"]
    for name, x in sums.items()
  }
  assert accuracy[combination.FITTED] > 0.95
  assert accuracy[combination.FITTED] > accuracy[combination.EQUAL] + 0.1
  assert weights["a"] / weights["b"] == pytest.approx(2 / 0.3, rel=0.2)
  # Labels of one half change the scores of the other alone.
  half = labels.prompt % 2 == 0
  prob[half] = 1 - prob[half]
  others, _ = combination.combined(labels, names, positive=positive)
  same = others[combination.FITTED] == sums[combination.FITTED]
  assert same[half].all() and not same[~half].any()
