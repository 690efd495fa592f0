"""Closed-form distances: references, limits, exact gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds, methods, regularizers
from jaxreward.setup import followers
from tests import tiny
from tests.differences import numeric_gradient

MASK = np.ones(4, bool)


def case(seed=0, b=4, shape=(2, 3)):
  rng = np.random.default_rng(seed)
  mean = rng.normal(0, 1, (b, *shape)).astype(np.float32)
  reference = mean + rng.normal(0, 0.3, mean.shape).astype(np.float32)
  std = rng.uniform(0.1, 0.9, b).astype(np.float32)
  dt = rng.uniform(0.02, 0.2, b).astype(np.float32)
  return mean, reference, std, dt


def reference_kl(mean, reference, std, dt, form):
  """From s = std / sqrt(dt), as the formula is published."""
  s = std.astype(np.float64) / np.sqrt(dt.astype(np.float64))
  variance = s**2 * dt if form == "exact" else s**2
  square = np.mean((mean - reference.astype(np.float64)) ** 2, axis=(1, 2))
  return np.sum(square / (2 * variance))


@pytest.mark.parametrize("form", ["exact", "without_dt"])
def test_step_kl_value_and_gradient_match_float64(form):
  mean, reference, std, dt = case()
  loss = lambda m: (
    regularizers.step_kl(m, reference, std, dt, 1.0, MASK, form=form).total
  )
  oracle = lambda m: reference_kl(m, reference, std, dt, form)
  np.testing.assert_allclose(jax.jit(loss)(mean), oracle(mean), rtol=1e-5)
  grad = jax.jit(jax.grad(loss))(mean)
  np.testing.assert_allclose(
    grad, numeric_gradient(oracle, mean), rtol=1e-4, atol=1e-5
  )
  assert np.all(np.abs(grad) > 0)


def test_step_kl_is_the_kl_of_the_densities():
  # Integrated numerically for one element, not from the closed form.
  mu, nu, std = 0.3, -0.2, 0.4
  x = np.linspace(-6, 6, 200_001)
  log_p = -0.5 * ((x - mu) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
  log_q = -0.5 * ((x - nu) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
  want = np.trapezoid(np.exp(log_p) * (log_p - log_q), x)
  got = regularizers.step_kl(
    np.full((1, 1), mu, np.float32),
    np.full((1, 1), nu, np.float32),
    np.float32(std),
    np.float32(0.1),
    1.0,
    np.ones(1, bool),
  )
  np.testing.assert_allclose(got.value(), want, rtol=1e-5)


def test_the_two_forms_differ_by_dt():
  mean, reference, std, _ = case(1)
  dt = np.float32(0.125)
  one = regularizers.step_kl(mean, reference, std, dt, 1.0, MASK)
  two = regularizers.step_kl(
    mean, reference, std, dt, 1.0, MASK, form="without_dt"
  )
  np.testing.assert_allclose(two.value(), one.value() * 0.125, rtol=1e-6)


def test_noise_free_steps_give_zero():
  mean, reference, std, dt = case(2)
  std[1] = 0.0
  mean[2] = reference[2]
  loss = lambda m: regularizers.step_kl(m, reference, std, dt, 1.0, MASK).total
  grad = jax.jit(jax.grad(loss))(mean)
  assert np.all(np.isfinite(grad))
  assert not np.any(grad[1])
  assert not np.any(grad[2])
  assert np.isfinite(loss(mean))


def test_velocity_distance():
  v, reference, _, _ = case(3)
  got = regularizers.velocity_distance(v, reference, MASK)
  want = np.mean((v.astype(np.float64) - reference) ** 2)
  np.testing.assert_allclose(got.value(), want, rtol=1e-5)
  grad = jax.grad(
    lambda v: regularizers.velocity_distance(v, reference, MASK).total
  )(v)
  np.testing.assert_allclose(grad, 2 * (v - reference) / 6, rtol=1e-4)


@pytest.mark.parametrize("name", ["step_kl", "velocity_distance"])
def test_reference_gets_no_gradient_and_padding_no_say(name):
  mean, reference, std, dt = case(4)
  mask = np.array([True, False, True, True])
  extra = (std, dt, np.ones(4)) if name == "step_kl" else ()
  function = regularizers.REGISTRY[name]
  toward = jax.grad(lambda r: function(mean, r, *extra, mask).total)(reference)
  assert not np.any(toward)
  dirty, dirty_std = mean.copy(), std.copy()
  dirty[1], dirty_std[1] = np.nan, np.nan
  extra_dirty = (dirty_std, dt, np.ones(4)) if name == "step_kl" else ()
  loss = lambda m: function(m, reference, *extra_dirty, mask).total
  value, grad = jax.value_and_grad(loss)(dirty)
  keep = lambda x: x[mask]
  dense = function(
    keep(mean), keep(reference), *map(keep, extra), np.ones(3, bool)
  )
  np.testing.assert_allclose(value, dense.total, rtol=1e-6)
  assert not np.any(grad[1])
  assert np.all(np.isfinite(grad))
  none = function(dirty, reference, *extra_dirty, mask & False)
  assert (none.total, none.weight, none.value()) == (0, 0, 0)


def test_bfloat16_inputs_are_reduced_in_float32():
  mean, reference, _, _ = case(5)
  got = regularizers.velocity_distance(
    jnp.asarray(mean, jnp.bfloat16), jnp.asarray(reference, jnp.bfloat16), MASK
  )
  assert got.total.dtype == jnp.float32


def test_the_distance_of_groups_is_that_of_their_rows():
  draw = np.random.default_rng(3)
  v, reference = draw.normal(0, 1, (2, 3, 4, 2, 2)).astype(np.float32)
  mask = draw.random((3, 4)) > 0.3
  dirty = np.where(mask[..., None, None], v, np.nan)
  got = regularizers.group_velocity_distance(dirty, reference, mask)
  error = ((v.astype(np.float64) - reference) ** 2).mean((2, 3))
  np.testing.assert_allclose(got.value(), error[mask].mean(), rtol=1e-5)
  assert got.weight == mask.sum()


def test_the_distance_to_a_guided_reference():
  rng = np.random.default_rng(3)
  v, ref, empty = rng.normal(size=(3, 2, 4, 3, 2))
  mask = np.array([[1, 1, 0, 1], [1, 0, 1, 1]], bool)
  got = regularizers.group_guided_distance(v, ref, empty, mask, guidance=4.5)
  rows = ((v - (4.5 * ref - 3.5 * empty)) ** 2).mean((2, 3))
  np.testing.assert_allclose(got.value(), rows[mask].mean(), rtol=1e-5)
  plain = regularizers.group_guided_distance(v, ref, empty, mask, guidance=1.0)
  same = regularizers.group_velocity_distance(v, ref, mask)
  np.testing.assert_allclose(plain.value(), same.value(), rtol=1e-5)


def test_real_images_alone_are_matched():
  v, u, _, _ = case(3)
  real, mask = np.array([1, 0, 1, 1], bool), np.array([1, 1, 1, 0], bool)
  dirty = np.where((real & mask)[:, None, None], v, np.nan)
  loss = lambda v: regularizers.data_matching(v, u, real, mask)
  mean = loss(dirty)
  assert mean.weight == 2
  want = lambda v: np.mean((v[[0, 2]] - u[[0, 2]]) ** 2, axis=(1, 2)).sum()
  np.testing.assert_allclose(mean.total, want(v.astype(float)), rtol=1e-5)
  slope = jax.grad(lambda v: loss(v).total)(dirty)
  np.testing.assert_allclose(
    slope, numeric_gradient(want, v), rtol=1e-3, atol=1e-5
  )


def test_a_term_may_tie_to_another_network():
  """`regularizers.NAME.reference`: the same term on another array."""
  config = tiny.load("align_scenes.py:diffusion_nft,smoke")
  config.references = dict(fast=dict(rule="decayed"))
  config.regularizers = dict(
    tie=dict(fn="velocity_distance", reference="fast"),
    kl=dict(fn="step_kl", reference="fast"), plain=dict(fn="step_kl"),
  )  # fmt: skip
  of = lambda fn, name: followers.tied(fn, config, f"regularizers.{name}")
  fast = of(regularizers.velocity_distance, "tie")
  assert methods.asks(fast) == ("v", "v_fast", "mask")
  v, other, _, _ = case(4)
  want = regularizers.velocity_distance(v, other, MASK)
  got = feeds.call(fast, {"v": v, "v_fast": other, "mask": MASK}.get)
  assert got.total == want.total
  step = of(regularizers.step_kl, "kl")
  assert methods.asks(step)[:2] == ("mean", "fast_mean")
  assert of(regularizers.step_kl, "plain") is regularizers.step_kl
