"""Moving averages: values, schedules, buffers of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.training import ema


def tree(seed):
  rng = np.random.default_rng(seed)
  return {
    "a": jnp.asarray(rng.normal(0, 1, (3, 2)), jnp.float32),
    "b": {"c": jnp.asarray(rng.normal(0, 1, 4), jnp.bfloat16)},
  }


def test_update_matches_float64():
  old, new = tree(0), tree(1)
  got = ema.update_ema(old, new, 0.9)
  want = 0.9 * np.asarray(old["a"], np.float64) + 0.1 * np.asarray(new["a"])
  np.testing.assert_allclose(got["a"], want, rtol=1e-5, atol=1e-6)
  assert got["b"]["c"].dtype == jnp.bfloat16


@pytest.mark.parametrize("decay", [0.0, 1.0, jnp.float32(0), jnp.float32(1)])
def test_the_ends_are_exact(decay):
  old, new = tree(0), tree(1)
  got = ema.update_ema(old, new, decay)
  same = jax.tree.map(
    lambda x, y: bool(jnp.array_equal(x, y)), got, new if decay == 0 else old
  )
  assert all(jax.tree.leaves(same))


def test_copy_shares_no_buffer():
  params = tree(0)
  copy = ema.init_ema(params)
  for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(copy), strict=True):
    assert x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()
    assert jnp.array_equal(x, y)
  both = jax.jit(
    lambda p, e: (p, ema.update_ema(e, p, 0.5)), donate_argnums=(0, 1)
  )
  both(params, copy)  # "donate the same buffer twice" would raise here


def test_copy_inside_jit_shares_no_buffer():
  params, copy = jax.jit(lambda p: (p, ema.init_ema(p)))(tree(0))
  for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(copy), strict=True):
    assert x.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()


def test_decay_schedules():
  assert ema.ema_decay(0, decay=0.9) == np.float32(0.9)
  for n in (0, 1, 5, 79, 80, 81, 1000):
    want = min(0.9, (1 + n) / (10 + n))
    got = ema.ema_decay(n, decay=0.9, schedule="warmup")
    np.testing.assert_allclose(got, want, rtol=1e-6)
  with pytest.raises(UserError, match="warm"):
    ema.ema_decay(0, schedule="warm")
