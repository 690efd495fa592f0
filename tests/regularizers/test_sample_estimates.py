"""Estimates of the KL from drawn steps: forms, signs, gradients."""

import jax
import numpy as np
import pytest

from jaxreward import regularizers
from jaxreward.errors import UserError

MASK = np.array([1, 1, 0, 1], bool)


def draw():
  rng = np.random.default_rng(0)
  one, other = rng.normal(size=(2, 4))
  return (
    one,
    other,
    [np.where(MASK, x, np.nan).astype(np.float32) for x in (one, other)],
  )


@pytest.mark.parametrize("estimate", ["k1", "k2", "k3"])
def test_sampled_kl_in_value_and_gradient(estimate):
  log_prob, reference, f32 = draw()
  form = {
    "k1": lambda r: -r,
    "k2": lambda r: r**2 / 2,
    "k3": lambda r: np.exp(r) - r - 1,
  }[estimate]
  total = lambda lp: np.sum(form(reference - lp)[MASK])
  loss = lambda lp: (
    regularizers.sampled_kl(lp, f32[1], MASK, estimate=estimate).total
  )
  got, slope = jax.value_and_grad(loss)(f32[0])
  np.testing.assert_allclose(got, total(log_prob), rtol=1e-5)
  steps = np.eye(4) * 1e-6
  want = [(total(log_prob + s) - total(log_prob - s)) / 2e-6 for s in steps]
  np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)


def test_k3_is_never_negative_and_zero_at_the_reference():
  *_, f32 = draw()
  assert regularizers.sampled_kl(*f32, MASK).total >= 0
  same = f32[0]
  loss = lambda lp: regularizers.sampled_kl(lp, same, MASK).total
  got, slope = jax.value_and_grad(loss)(same)
  assert got == 0 and not np.any(slope)


def test_on_average_all_of_them_are_the_kl():
  """Two Gaussians, in one dimension; drawn from the first."""
  rng = np.random.default_rng(1)
  x = rng.normal(0, 1, 400_000)
  density = lambda mean: -0.5 * (x - mean) ** 2
  rows = [density(m).astype(np.float32) for m in (0.0, 0.3)]
  mask = np.ones(len(x), bool)
  for estimate in ("k1", "k3"):
    got = regularizers.sampled_kl(*rows, mask, estimate=estimate).value()
    np.testing.assert_allclose(got, 0.3**2 / 2, atol=2e-3)


def test_step_drop():
  log_prob, old, f32 = draw()
  loss = lambda lp: regularizers.step_drop(lp, f32[1], MASK).total
  got, slope = jax.value_and_grad(loss)(f32[0])
  np.testing.assert_allclose(got, np.sum((old - log_prob)[MASK]), rtol=1e-5)
  np.testing.assert_array_equal(slope, np.where(MASK, -1.0, 0.0))


def test_an_estimate_that_there_is_not():
  with pytest.raises(UserError, match='"k4"'):
    regularizers.sampled_kl(*draw()[2], MASK, estimate="k4")


def test_the_dual_tie_is_the_sum_of_both():
  rng = np.random.default_rng(1)
  mean, reference = rng.normal(size=(2, 4, 3, 2))
  new, old = rng.normal(size=(2, 4))
  std, mask = 0.3, np.array([1, 1, 0, 1], bool)
  got = regularizers.dual_kl(mean, reference, std, 0.1, 1.0, new, old, mask)
  kl = ((mean - reference) ** 2).mean((1, 2)) / (2 * std**2)
  want = (kl + 0.1 * (old - new))[mask].mean()
  np.testing.assert_allclose(got.value(), want, rtol=1e-5)
  none = regularizers.dual_kl(
    mean, reference, std, 0.1, 1.0, new, old, mask, drop=0.0
  )
  alone = regularizers.step_kl(
    mean, reference, std, 0.1, 1.0, mask, form="exact"
  )
  np.testing.assert_allclose(none.value(), alone.value(), rtol=1e-6)
