"""The path and its conversions; times; the regression that defines v."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxreward import rng
from jaxreward.flow import path


def draw(seed=0, rows=6, shape=(3, 4, 2)):
  r = np.random.default_rng(seed)
  x0, noise = r.normal(0, 1, (2, rows, *shape)).astype(np.float32)
  t = np.linspace(0.0, 1.0, rows).astype(np.float32)
  return x0, noise, t


def test_path_ends_in_data_and_in_noise():
  x0, noise, _ = draw()
  zero, one = np.zeros(6, np.float32), np.ones(6, np.float32)
  np.testing.assert_array_equal(path.interpolate(x0, noise, zero), x0)
  np.testing.assert_array_equal(path.interpolate(x0, noise, one), noise)


def test_velocity_is_the_time_derivative_of_the_path():
  x0, noise, t = (jnp.asarray(a) for a in draw())
  _, derivative = jax.jvp(
    lambda t: path.interpolate(x0, noise, t), (t,), (jnp.ones_like(t),)
  )
  np.testing.assert_allclose(derivative, noise - x0, atol=1e-6)


def test_data_and_noise_come_back():
  x0, noise, t = draw()
  x_t = path.interpolate(x0, noise, t)
  v = noise - x0
  np.testing.assert_allclose(path.x0_from_velocity(x_t, v, t), x0, atol=1e-6)
  x1 = np.asarray(x_t) + (1 - t).reshape(-1, 1, 1, 1) * v
  np.testing.assert_allclose(x1, noise, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 3, 4, 2)])
def test_expand_broadcasts_rows(shape):
  t = np.arange(6, dtype=np.float32)
  spread = np.broadcast_to(path.expand(t, np.zeros(shape)), shape)
  np.testing.assert_array_equal(spread.reshape(6, -1)[:, 0], t)
  assert path.expand(jnp.float32(2.0), np.zeros(shape)).ndim == len(shape)


@pytest.mark.parametrize(
  ("mean", "std", "shift"),
  [(0.0, 1.0, 1.0), (-0.5, 1.4, 1.0), (0.3, 0.7, 3.0)],
)
def test_times_are_logit_normal_and_shifted(mean, std, shift):
  """The shift multiplies the odds, which moves the logit's mean by log s."""
  t = path.logit_normal_times(
    rng.stream_key(0, "times"), 20_000, mean=mean, std=std, shift=shift
  )
  t = np.float64(t)
  assert ((t > 0) & (t < 1)).all()
  law = scipy.stats.norm(mean + np.log(shift), std)
  assert scipy.stats.kstest(scipy.special.logit(t), law.cdf).pvalue > 1e-3
  levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
  quantiles = scipy.special.expit(law.ppf(levels))
  np.testing.assert_allclose(np.quantile(t, levels), quantiles, atol=0.015)


def test_loss_equals_the_reference():
  x0, noise, _ = draw()
  v = np.random.default_rng(9).normal(0, 1, x0.shape).astype(np.float32)
  expected = np.square(np.float64(v) - (np.float64(noise) - x0))
  np.testing.assert_allclose(
    path.flow_matching_loss(v, x0, noise), expected.mean((1, 2, 3)), rtol=1e-5
  )
  # One subtraction in two libraries: the square of an ulp of 8 at most.
  np.testing.assert_allclose(
    path.flow_matching_loss(noise - x0, x0, noise), 0.0, atol=1e-12
  )


def test_loss_is_least_at_the_conditional_expectation():
  """x_0 ~ N(m, c^2): v* = a x_t + b; the gradient in (a, b) vanishes there.

  The normal equations are solved in float64 on the same draws, so the check is
  exact; the closed form agrees to sampling error.
  """
  m, c, t, n = 0.7, 0.5, 0.6, 4000
  r = np.random.default_rng(0)
  x0 = (m + c * r.normal(size=(n, 1))).astype(np.float32)
  noise = r.normal(size=(n, 1)).astype(np.float32)
  x_t = np.asarray(path.interpolate(x0, noise, np.full(n, t, np.float32)))

  def loss(theta):
    v = theta[0] * x_t + theta[1]
    return path.flow_matching_loss(v, x0, noise).mean()

  design = np.stack([np.float64(x_t[:, 0]), np.ones(n)], -1)
  target = np.float64(noise[:, 0]) - x0[:, 0]
  best = np.linalg.lstsq(design, target, rcond=None)[0]
  grad = jax.grad(loss)(jnp.asarray(best, jnp.float32))
  np.testing.assert_allclose(grad, 0.0, atol=2e-5)
  assert (
    np.abs(jax.grad(loss)(jnp.asarray(best + 0.1, jnp.float32))).min() > 0.05
  )
  variance = (1 - t) ** 2 * c**2 + t**2
  a = (t - (1 - t) * c**2) / variance
  np.testing.assert_allclose(best, [a, -m - a * (1 - t) * m], atol=0.06)
