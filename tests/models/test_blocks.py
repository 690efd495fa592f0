"""Blocks against float64 NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxreward.models import blocks


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_layer_norm_equals_numpy(offset):
  x = draw(3, 5, 16) * 2 + offset
  x64 = np.float64(x)
  centred = x64 - x64.mean(-1, keepdims=True)
  expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(blocks.layer_norm(x), expected, atol=2e-5)


def test_layer_norm_ignores_scale_and_offset():
  x = draw(4, 16)
  np.testing.assert_allclose(
    blocks.layer_norm(3 * x + 2), blocks.layer_norm(x), atol=1e-4
  )


def test_rms_norm_has_unit_mean_square():
  x = draw(3, 5, 16) * 7
  expected = np.float64(x) / np.sqrt(
    (np.float64(x) ** 2).mean(-1, keepdims=True)
  )
  np.testing.assert_allclose(blocks.rms_norm(x), expected, atol=1e-5)


@pytest.mark.parametrize("norm", [blocks.layer_norm, blocks.rms_norm])
def test_norms_of_nothing_are_finite_and_keep_the_dtype(norm):
  value, grad = jax.value_and_grad(lambda x: norm(x).sum())(jnp.zeros((2, 8)))
  assert np.isfinite(value) and np.isfinite(grad).all()
  half = norm(jnp.asarray(draw(2, 8), jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(half), norm(draw(2, 8)), atol=0.02)


def test_squared_relu_value_and_gradient():
  x = jnp.array([-2.0, 0.0, 0.5, 3.0])
  np.testing.assert_array_equal(blocks.squared_relu(x), [0, 0, 0.25, 9])
  grad = jax.vmap(jax.grad(blocks.squared_relu))(x)
  np.testing.assert_array_equal(grad, [0, 0, 1, 6])


def attend64(q, k, v, mask):
  """Softmax attention with unit-RMS queries and keys, [B, N, H, D]."""

  def unit(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

  q, k, v = (np.float64(x) for x in (q, k, v))
  logits = np.einsum("bnhd,bmhd->bhnm", unit(q), unit(k)) / np.sqrt(q.shape[-1])
  if mask is not None:
    logits = np.where(mask[:, None, None], logits, -np.inf)
  out = np.einsum("bhnm,bmhd->bnhd", scipy.special.softmax(logits, -1), v)
  return out.reshape(*out.shape[:2], -1)


def attention(q, k, v, mask):
  """`blocks.attend` from tokens-first arrays, its operands normalised."""
  if mask is None:
    mask = np.ones(k.shape[:2], bool)
  q, k, v = (jnp.swapaxes(jnp.asarray(x), 1, 2) for x in (q, k, v))
  out = blocks.attend(
    blocks.rms_norm(q), blocks.rms_norm(k), v, blocks.key_bias(mask)
  )
  return blocks.from_heads(out)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_numpy(masked):
  q, k, v = draw(2, 5, 3, 4), draw(2, 7, 3, 4, seed=1), draw(2, 7, 3, 4, seed=2)
  mask = np.arange(7) < np.array([[3], [6]]) if masked else None
  actual = attention(q, k, v, mask)
  np.testing.assert_allclose(actual, attend64(q, k, v, mask), atol=2e-5)


def test_masked_keys_reach_neither_value_nor_gradient():
  q, k, v = draw(2, 5, 3, 4), draw(2, 7, 3, 4, seed=1), draw(2, 7, 3, 4, seed=2)
  mask = np.arange(7) < np.array([[3], [6]])

  def total(k, v):
    return jnp.square(attention(q, k, v, mask)).sum()

  other = (
    np.where(mask[:, :, None, None], k, 9.0),
    np.where(mask[:, :, None, None], v, -9.0),
  )
  np.testing.assert_array_equal(total(k, v), total(*other))
  for grad in jax.grad(total, (0, 1))(k, v):
    assert (np.asarray(grad)[~mask] == 0).all()
    assert (np.abs(np.asarray(grad)[mask]).sum((-1, -2)) > 0).all()


def test_attention_does_not_know_the_order_of_keys():
  q, k, v = draw(2, 5, 3, 4), draw(2, 7, 3, 4, seed=1), draw(2, 7, 3, 4, seed=2)
  order = np.random.default_rng(3).permutation(7)
  np.testing.assert_allclose(
    attention(q, k[:, order], v[:, order], None),
    attention(q, k, v, None),
    atol=1e-5,
  )


@pytest.mark.turns(2)
def test_gradients_of_attention_are_those_of_the_plain_formula():
  q, k, v = draw(2, 5, 3, 4), draw(2, 7, 3, 4, seed=1), draw(2, 7, 3, 4, seed=2)
  mask = np.arange(7) < np.array([[3], [6]])
  out = draw(2, 5, 12, seed=3)

  def plain(q, k, v):
    q, k = (
      x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) for x in (q, k)
    )
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) / 2
    weight = jax.nn.softmax(
      jnp.where(mask[:, None, None], logits, -jnp.inf), -1
    )
    return jnp.einsum("bhnm,bmhd->bnhd", weight, v).reshape(2, 5, 12)

  def of(fn):
    total = lambda q, k, v: (fn(q, k, v) * out).sum()
    return jax.grad(total, (0, 1, 2))(*map(jnp.asarray, (q, k, v)))

  found = of(lambda q, k, v: attention(q, k, v, mask))
  for got, expected in zip(found, of(plain), strict=True):
    np.testing.assert_allclose(got, expected, atol=3e-6)


def layer64(x):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def rms64(x):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(
  ("norm", "reference"),
  [(blocks.layer_norm, layer64), (blocks.rms_norm, rms64)],
)
def test_gradients_of_the_norms_by_finite_differences(norm, reference):
  x, out = np.float64(draw(3, 8)), np.float64(draw(3, 8, seed=1))
  found = jax.grad(lambda x: (norm(x) * out).sum())(jnp.asarray(x, jnp.float32))
  for i in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[i] = 1e-5
    up, down = ((reference(x + s) * out).sum() for s in (step, -step))
    assert found[i] == pytest.approx((up - down) / 2e-5, abs=5e-6)


def test_own_keys_stand_before_the_masked_ones():
  bias = np.asarray(blocks.key_bias(np.array([[True, False]]), prefix=3))
  np.testing.assert_array_equal(bias[0, 0, 0] == 0, [1, 1, 1, 1, 0])


def test_heads_there_and_back():
  x = draw(2, 5, 24)
  q, k = blocks.to_heads(jnp.asarray(x), 2, 3)
  np.testing.assert_array_equal(blocks.from_heads(q), x[..., :12])
  np.testing.assert_array_equal(k[:, 1], x[..., 16:20])


def test_rows_is_the_layer_on_the_last_axis():
  x = jnp.asarray(draw(3, 4, 5, 8))
  layer = blocks.dense(6, "out", jnp.float32)
  params = layer.init(jax.random.key(0), x)
  kernel = np.float64(params["params"]["kernel"])

  class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
      return blocks.rows(blocks.dense(6, "out", jnp.float32), x)

  actual = Wrapped().apply({"params": {"out": params["params"]}}, x)
  assert actual.shape == (3, 4, 5, 6)
  np.testing.assert_allclose(actual, np.float64(x) @ kernel, atol=1e-5)


def test_dense_starts_at_unit_gain_or_at_nothing():
  x = jnp.asarray(draw(512, 256))
  layer = blocks.dense(300, "a", jnp.float32)
  y = layer.apply(layer.init(jax.random.key(0), x), x)
  assert float(y.std()) == pytest.approx(1.0, abs=0.03)
  zero = blocks.dense(300, "a", jnp.float32, zero=True)
  assert not np.any(zero.apply(zero.init(jax.random.key(0), x), x))


def test_half_precision_products_keep_float32_parameters():
  layer = blocks.dense(4, "a", jnp.bfloat16)
  params = layer.init(jax.random.key(0), jnp.ones((2, 3)))
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype("float32")
  }
  assert layer.apply(params, jnp.ones((2, 3))).dtype == jnp.bfloat16


def test_timestep_features_are_sinusoids_from_1_to_1000():
  t = np.array([0.0, 0.3, 1.0], np.float32)
  frequency = 1000.0 ** (np.arange(8) / 7)
  angle = np.float64(t)[:, None] * frequency
  expected = np.concatenate([np.cos(angle), np.sin(angle)], -1)
  np.testing.assert_allclose(
    blocks.timestep_features(t, 16), expected, atol=3e-4
  )
