"""Exact variances and fresh noise against quadrature and closed forms."""

import itertools

import gaussian_target as gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.flow import schedule, steppers


def integral(low, high, count=200_000):
  """int u / (1 - u) du by the midpoint rule, float64."""
  u = low + (np.arange(count) + 0.5) * (high - low) / count
  return np.mean(u / (1 - u)) * (high - low)


def test_the_variance_is_the_integral_over_the_step():
  times = np.array([0.95, 0.9, 0.8, 0.5, 0.1, 0.0])
  table = steppers.precise_sde(times, noise_level=0.5)
  want = [0.25 * integral(low, high) for high, low in itertools.pairwise(times)]
  np.testing.assert_allclose(np.square(table.std), want, rtol=1e-5)
  np.testing.assert_allclose(want[1], 0.1482868, rtol=1e-5)
  left = steppers.flow_sde(times, noise_level=0.5).std[1] ** 2
  np.testing.assert_allclose(left, 0.225, rtol=1e-5)


def test_a_step_and_its_parts_draw_the_same_noise():
  whole = steppers.precise_sde(np.array([0.9, 0.5, 0.0]))
  parts = steppers.precise_sde(np.array([0.9, 0.8, 0.65, 0.5, 0.0]))
  np.testing.assert_allclose(
    whole.std[0] ** 2, np.square(parts.std[:3], dtype=np.float64).sum(),
    rtol=1e-6,
  )  # fmt: skip


@pytest.mark.parametrize("steps", [4, 20, 67, 68, 200])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_no_schedule_has_a_negative_variance(shift, steps):
  table = steppers.precise_sde(schedule.timesteps(steps, shift))
  assert np.isfinite(table.std).all()
  assert (table.std > 0).all()


def test_the_mean_moves_along_the_score():
  times = np.array([0.9, 0.7, 0.0])
  table = steppers.precise_sde(times, noise_level=0.6)
  x, v = np.random.default_rng(0).normal(size=(2, 3, 4))
  t, delta, variance = 0.9, 0.2, float(table.std[0]) ** 2
  x0 = x - t * v
  score = -(x - (1 - t) * x0) / t**2
  want = x - delta * v + 0.5 * variance * score
  step = jax.tree.map(lambda x: jnp.asarray(x)[0], table)
  got = steppers.mean(x.astype(np.float32), v.astype(np.float32), step)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_marginals_converge():
  """On a Gaussian, of the exact velocity."""
  errors = []
  for steps in (200, 800):
    times = schedule.timesteps(steps, 3.0)
    got = gaussian.propagate(steppers.precise_sde(times, noise_level=0.5))
    at = np.searchsorted(-np.asarray(times), -0.5)
    _, var = gaussian.moments(np.float64(times[at]))
    errors.append(abs(np.sqrt(got[at, 1]) - np.sqrt(var)))
  assert errors[1] < errors[0] < 0.05


def test_fresh_noise_on_the_clean_prediction():
  times = schedule.timesteps(6, 3.0)
  table = steppers.renoise(times)
  level_one = steppers.cps(times, noise_level=1.0)
  for field in ("c_x", "c_v", "std"):
    np.testing.assert_allclose(
      getattr(table, field), getattr(level_one, field), atol=1e-6
    )
  assert (table.log_scale == 1).all() and table.std[-1] == 0
  # A step to .5 that missed by .1, and one to .4, in one dimension.
  for t_next, want in ((0.5, -0.245791), (0.4, -0.033898)):
    step = steppers.renoise(np.array([0.9, t_next, 0.0]))
    step = jax.tree.map(lambda x: jnp.asarray(x)[0], step)
    mean = np.zeros((1, 1), np.float32)
    got = steppers.log_prob(mean + np.float32(0.1), mean, step)
    np.testing.assert_allclose(got, [want], rtol=1e-4)
