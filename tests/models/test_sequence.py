"""Attention cut by tokens: the same numbers, a share of the work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward.compilation import hlo
from jaxreward.models import attention, sequence
from jaxreward.training import mesh as mesh_lib

B, D = 4, 8


def arrays(tokens, keys, heads):
  rng = np.random.default_rng(0)
  draw = lambda n: jnp.asarray(rng.normal(size=(B, n, heads, D)), "float32")
  return draw(tokens), draw(keys), draw(keys)


def reference(q, k, v):
  """Softmax attention in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(D)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("bhnm,bmhd->bnhd", weights, v)


def cut(q, k, v):
  return sequence.attend(jax.nn.dot_product_attention, q, k, v, least=1)


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make_mesh(2, 1, 4, devices=jax.devices()[:8])


@pytest.mark.turns(2)
@pytest.mark.parametrize("tokens", [12, 13])  # 13 is filled up to 16
def test_values_and_gradients_are_those_of_one_device(mesh, tokens):
  q, k, v = arrays(tokens, 10, heads=3)
  np.testing.assert_allclose(cut(q, k, v), reference(q, k, v), atol=1e-5)
  weigh = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)
  loss = lambda attend: lambda *x: jnp.sum(attend(*x) * weigh)
  want = jax.grad(loss(jax.nn.dot_product_attention), (0, 1, 2))(q, k, v)
  rows = NamedSharding(mesh, PartitionSpec("data"))
  with jax.set_mesh(mesh):
    placed = jax.device_put((q, k, v), rows)
    got = jax.jit(cut)(*placed)
    grads = jax.jit(jax.grad(loss(cut), (0, 1, 2)))(*placed)
  np.testing.assert_allclose(got, reference(q, k, v), atol=1e-5)
  for x, y in zip(grads, want, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize(
  ("heads", "shares"),
  [(3, 8), (4, 2)],  # 4 heads are left to the rules of the parameters
)
def test_every_device_takes_its_share_of_the_queries(mesh, heads, shares):
  shapes = [
    jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays(16, 16, heads)
  ]
  rows = NamedSharding(mesh, PartitionSpec("data"))
  shapes = [
    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for x in shapes
  ]
  with jax.set_mesh(mesh):
    text = jax.jit(cut).lower(*shapes).compile().as_text()
  whole = 2 * 2 * B * heads * 16 * 16 * D
  assert hlo.read(text, dict(mesh.shape)).flops == whole / shares


def test_short_sequences_and_small_meshes_are_left_alone(mesh):
  q, k, v = arrays(12, 10, heads=3)
  plain = lambda q, k, v: sequence.attend(jax.nn.dot_product_attention, q, k, v)
  with jax.set_mesh(mesh):
    assert "sharding_constraint" not in str(jax.make_jaxpr(plain)(q, k, v))
    assert "sharding_constraint" in str(jax.make_jaxpr(cut)(q, k, v))
  assert "sharding_constraint" not in str(jax.make_jaxpr(cut)(q, k, v))


def test_the_transformers_attend_through_it(mesh):
  q, k, v = (jax.ShapeDtypeStruct((B, 300, 3, D), jnp.float32),) * 3
  with jax.set_mesh(mesh):
    found = str(jax.make_jaxpr(attention.attention)(q, k, v))
  assert "sharding_constraint" in found
