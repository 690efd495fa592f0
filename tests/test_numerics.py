"""Masked statistics against numpy.ma, gradients, and pooling."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import numerics
from jaxreward.numerics import Max, Mean

AXES = [None, 0, 1, (0, 1), -1]
FUNCTIONS = {
  "mean": (numerics.masked_mean, np.ma.mean),
  "var": (numerics.masked_var, np.ma.var),
  "std": (numerics.masked_std, np.ma.std),
}


def case(seed=0):
  r = np.random.default_rng(seed)
  x = r.normal(2.0, 3.0, (6, 5, 4)).astype(np.float32)
  mask = r.random(x.shape) < 0.6
  mask[2] = False
  mask[:, 3] = False
  return x, mask


def poison(x, mask):
  bad = np.resize(np.float32([np.nan, np.inf, -np.inf, 3e38]), x.shape)
  return np.where(mask, x, bad)


@pytest.mark.turns(3)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_statistics_equal_numpy_ma(name, axis, keepdims):
  ours, reference = FUNCTIONS[name]
  x, mask = case()
  masked = np.ma.masked_array(np.float64(x), ~mask)
  expected = reference(masked, axis=axis, keepdims=keepdims)
  expected = np.ma.filled(expected, 0.0)  # nothing to average: 0, not masked
  actual = ours(poison(x, mask), mask, axis=axis, keepdims=keepdims)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_no_mask_is_numpy(name):
  ours, _ = FUNCTIONS[name]
  x, _ = case()
  expected = getattr(np, name)(np.float64(x), axis=1)
  np.testing.assert_allclose(ours(x, axis=1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_mask_broadcasts(name):
  ours, reference = FUNCTIONS[name]
  x, _ = case()
  mask = np.array([True, False, True, True, False, True])[:, None, None]
  masked = np.ma.masked_array(np.float64(x), ~np.broadcast_to(mask, x.shape))
  np.testing.assert_allclose(
    ours(x, mask), reference(masked), rtol=1e-5, atol=1e-5
  )


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_masked_entries_reach_neither_value_nor_gradient(name):
  ours, _ = FUNCTIONS[name]
  x, mask = case()
  value, grad = jax.value_and_grad(lambda x: ours(x, mask, axis=-1).sum())(
    jnp.asarray(poison(x, mask))
  )
  clean, clean_grad = jax.value_and_grad(
    lambda x: ours(x, mask, axis=-1).sum()
  )(jnp.asarray(np.where(mask, x, 0)))
  assert value == clean
  np.testing.assert_array_equal(grad, clean_grad)
  assert np.isfinite(grad).all()
  assert (np.asarray(grad)[~mask] == 0).all()
  assert (np.asarray(grad)[mask] != 0).any()


def test_equal_entries_have_zero_std_and_zero_gradient():
  x = jnp.full((3, 4), 1.7)
  value, grad = jax.value_and_grad(
    lambda x: numerics.masked_std(x, jnp.ones((3, 4), bool), axis=1).sum()
  )(x)
  assert value == pytest.approx(0.0, abs=1e-6)
  assert np.isfinite(grad).all()


def test_safe_sqrt_value_and_gradient():
  x = jnp.array([0.0, 1e-12, 0.25, 4.0, 1e20])
  np.testing.assert_allclose(
    numerics.safe_sqrt(x), np.sqrt(np.float64(x)), rtol=1e-6
  )
  grad = jax.vmap(jax.grad(numerics.safe_sqrt))(x)
  expected = [0.0, *(0.5 / np.sqrt(np.float64(x[1:])))]
  np.testing.assert_allclose(grad, expected, rtol=1e-5)
  negative = jax.value_and_grad(numerics.safe_sqrt)(-1.0)
  assert negative == (0.0, 0.0)


def test_mean_skips_masked_entries():
  x, mask = case()
  mean = Mean.of(poison(x, mask), mask)
  assert mean.weight == mask.sum()
  assert mean.value() == pytest.approx(np.float64(x)[mask].mean(), rel=1e-5)


def test_mean_of_nothing_is_zero_with_a_finite_gradient():
  x = jnp.array([jnp.nan, 1.0])

  def value(x):
    return Mean.of(x, jnp.zeros(2, bool)).value()

  result, grad = jax.value_and_grad(value)(x)
  assert result == 0.0
  np.testing.assert_array_equal(grad, 0.0)


def test_mean_counts_in_float32():
  """A bfloat16 sum of 1,000 ones would stop at 256."""
  mean = Mean.of(jnp.ones(1000, jnp.bfloat16))
  assert mean.total.dtype == jnp.float32
  assert mean.total == 1000.0 and mean.value() == 1.0


@pytest.mark.job
@pytest.mark.turns(3)
@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 99)
)
def test_any_split_pools_to_the_whole(cuts, seed):
  """Integers add exactly, so pooling can be compared bit for bit."""
  r = np.random.default_rng(seed)
  x = r.integers(-50, 50, 40).astype(np.float32)
  mask = r.random(40) < 0.7
  edges = [0, *sorted(cuts), 40]
  pooled = Mean(np.float32(0), np.float32(0))
  for start, stop in itertools.pairwise(edges):
    pooled += Mean.of(x[start:stop], mask[start:stop])
  whole = Mean.of(x, mask)
  assert pooled.total == whole.total and pooled.weight == whole.weight
  assert pooled.value() == whole.value()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_any_split_of_a_maximum_pools_to_the_whole(sign):
  """Parts without a weight, and zeros to begin with, say nothing."""
  x, mask = sign * np.arange(1.0, 9.0), np.arange(8) % 4 < 2
  for size in (1, 2, 4, 8):
    pooled = Max(np.float32(0), np.float32(0))
    for start in range(0, 8, size):
      part = slice(start, start + size)
      dirty = np.where(mask, x, np.nan)
      pooled = numerics.pool(pooled, Max.of(dirty[part], mask[part]))
    assert pooled.value() == x[mask].max() and pooled.weight == 4


def test_a_maximum_of_nothing_is_zero_and_a_nan_stays():
  nothing = Max.of(jnp.full(3, jnp.nan), jnp.zeros(3, bool))
  assert nothing.value() == 0.0 and nothing.weight == 0
  assert Max.of(jnp.zeros(0)).value() == 0.0
  lost = Max.of(jnp.array([1.0, jnp.nan])) + Max.of(jnp.array([2.0]))
  assert np.isnan(lost.value())


def test_pooling_adds_what_is_no_maximum():
  tree = {"m": Mean(1.0, 2.0), "top": Max(3.0, 1.0), "x": np.ones(2)}
  found = numerics.pool(tree, tree)
  assert (found["m"].total, found["m"].weight) == (2.0, 4.0)
  assert (found["top"].largest, found["top"].weight) == (3.0, 2.0)
  np.testing.assert_array_equal(found["x"], 2.0)


def test_a_pooled_mean_weighs_by_count_not_by_part():
  parts = Mean.of(jnp.array([1.0])) + Mean.of(jnp.array([4.0, 4.0, 4.0]))
  assert parts.value() == 3.25


def test_mean_is_a_pytree_that_scans():
  def body(total, x):
    return total + Mean.of(x), None

  zero = Mean(jnp.float32(0), jnp.float32(0))
  total, _ = jax.lax.scan(body, zero, jnp.arange(12.0).reshape(4, 3))
  assert total.value() == 5.5


@pytest.mark.turns(3)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_largest_has_the_gradient_of_one_place(axis):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
  np.testing.assert_array_equal(numerics.largest(x, axis), x.max(axis))
  slopes = [
    jax.grad(lambda x, f=f: jnp.square(f(x, axis)).sum())(x)
    for f in (numerics.largest, jnp.max)
  ]
  np.testing.assert_array_equal(*slopes)
  tied = jax.grad(lambda x: numerics.largest(x, 0).sum())(jnp.ones((4, 2)))
  np.testing.assert_array_equal(tied.sum(0), [1, 1])


@pytest.mark.turns(3)
@pytest.mark.parametrize("at_once", [2, 5, 8])
def test_chunks_of_rows_leave_no_trace(at_once):
  rows = {"x": np.arange(15.0).reshape(5, 3), "n": np.arange(5)}
  mean = lambda r: (r["x"].sum(-1) + r["n"], r["x"][:, :2])
  whole, parts = mean(rows), numerics.in_chunks(mean, rows, at_once)
  jax.tree.map(np.testing.assert_allclose, parts, whole)


def test_running_statistics_equal_those_of_all_at_once():
  x = np.random.default_rng(0).normal(50.0, 3.0, (4, 5, 6)).astype(np.float32)
  mask = np.random.default_rng(1).random(x.shape) < 0.7
  mask[1] = False  # a part without any
  running = numerics.Running.empty()
  for part, valid in zip(x, mask, strict=True):
    running = running.add(np.where(valid, part, np.nan), valid)
  kept = x[mask].astype(np.float64)
  assert float(running.count) == kept.size
  want = (x.astype(np.float64) - kept.mean()) / kept.std()
  np.testing.assert_allclose(running.normalize(x), want, rtol=1e-4, atol=1e-5)
  alike = numerics.Running.empty().add(np.ones(3), np.ones(3, bool))
  np.testing.assert_array_equal(alike.normalize(np.ones(2)), np.zeros(2))
