"""When the warning speaks, and how seldom it cries wolf."""

import numpy as np
import pytest
from scipy import stats

from jaxreward.evaluation import divergence
from jaxreward.evaluation.hacking import divergence_warning

RUNS = 400


def smooth(rng, n, rho):
  """An AR(1) series of unit variance."""
  noise = rng.standard_normal(n)
  for i in range(1, n):
    noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
  return noise


@pytest.mark.turns(3)
@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("n", [10, 50, 120])
@pytest.mark.parametrize("rising", [False, True])
def test_false_alarms_are_rare(rho, n, rising):
  """Noise alone, and a real gain with a held-out reward that only wobbles."""
  rng = np.random.default_rng(n)
  gain = np.linspace(0, 20, n) if rising else np.zeros(n)
  alarms = sum(
    divergence_warning(gain + smooth(rng, n, rho), smooth(rng, n, rho))
    is not None
    for _ in range(RUNS)
  )
  assert alarms / RUNS < 0.05


def test_a_planted_split_is_found():
  rng = np.random.default_rng(0)
  t = np.linspace(0, 1, 60)
  found = 0
  for _ in range(100):
    trained = 0.5 + 0.3 * t + 0.05 * rng.standard_normal(60)
    heldout = 0.6 - 0.2 * t + 0.05 * rng.standard_normal(60)
    found += divergence_warning(trained, heldout) is not None
  assert found >= 95


def test_only_that_one_combination_warns():
  up, down = np.linspace(0, 1, 30), np.linspace(1, 0, 30)
  line = divergence_warning(up, down)
  assert line is not None and "\n" not in line and "part ways" in line
  assert divergence_warning(up, up) is None
  assert divergence_warning(down, up) is None
  assert divergence_warning(down, down) is None
  assert divergence_warning(up, np.ones(30)) is None


def test_only_the_window_counts():
  trained = np.linspace(0, 1, 100)
  heldout = np.concatenate([np.linspace(0, 1, 60), np.linspace(1, 0.5, 40)])
  assert divergence_warning(trained[:60], heldout[:60], 30) is None
  assert divergence_warning(trained, heldout, 30) is not None


def test_gaps_and_short_histories():
  trained = [float(i) for i in range(40)]
  heldout = [-float(i) if i % 3 == 0 else None for i in range(40)]
  assert divergence_warning(trained, heldout) is not None
  heldout[3] = float("nan")
  assert divergence_warning(trained, heldout) is not None
  assert divergence_warning(trained[:9], [-t for t in trained[:9]]) is None
  assert divergence_warning([], []) is None
  assert divergence_warning([None] * 20, [None] * 20) is None
  with pytest.raises(ValueError, match="pair up"):
    divergence_warning([1.0], [])


def test_rounding_is_not_a_trend():
  trained = 1.0 + 1e-9 * np.arange(30)
  assert divergence_warning(trained, 2.0 - trained) is None


def test_slope_and_textbook_error():
  rng = np.random.default_rng(1)
  y = 0.1 * np.arange(25) + rng.standard_normal(25)
  want = stats.linregress(np.arange(25), y)
  got = divergence.trend(y)
  np.testing.assert_allclose(got.slope, want.slope, rtol=1e-10)
  assert got.error >= want.stderr * (1 - 1e-10)
  alternating = y.mean() + np.where(np.arange(24) % 2, 1.0, -1.0)
  plain = stats.linregress(np.arange(24), alternating)
  got = divergence.trend(alternating)
  np.testing.assert_allclose(got.error, plain.stderr, rtol=1e-10)
