"""Flops of a program as written, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxreward.compilation import flops
from jaxreward.models import attention
from jaxreward.models.policies import scene_dit
from jaxreward.training import mesh as mesh_lib
from pallas_kernels import stream_attention

X = jax.ShapeDtypeStruct((6, 8), jnp.float32)
W = jax.ShapeDtypeStruct((8, 8), jnp.float32)
ONE = 2 * 6 * 8 * 8


def counted(function, *shapes):
  return flops.count(jax.make_jaxpr(function)(*shapes))


def repeated(x, w):
  return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]


@jax.custom_vjp
def own(x, w):
  return x @ w


own.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))


def loss(x, w):
  return jnp.sum(own(x, w) ** 2)


@pytest.mark.parametrize(
  ("function", "products"),
  [
    (lambda x, w: x @ w, 1),
    (lambda x, w: jnp.tanh(x) + 1, 0),
    (repeated, 7),
    (lambda x, w: repeated(repeated(x, w), w), 14),
    (jax.jit(repeated), 7),
    (jax.checkpoint(repeated), 7),
    (lambda x, w: jax.lax.map(lambda r: r @ w, x), 1),
    (jax.vmap(lambda r, w: r @ w, (0, None)), 1),
    (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x), 1),
    (own, 1),
    (jax.grad(loss, (0, 1)), 3),
    # What remat computes again is in the gradient's program.
    (jax.grad(jax.checkpoint(lambda x, w: jnp.sum((x @ w) ** 2)), (0, 1)), 4),
    (lambda x, w: jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: y @ w, x), 1),
  ],
)  # fmt: skip
def test_products_are_counted_as_often_as_they_run(function, products):
  assert counted(function, X, W) == products * ONE


def test_batched_products_and_several_contracted_axes():
  q = jax.ShapeDtypeStruct((2, 5, 3, 4), jnp.float32)
  logits = lambda q: jnp.einsum("bnhd,bmhd->bhnm", q, q)
  assert counted(logits, q) == 2 * 2 * 3 * 5 * 5 * 4
  every = lambda q: jnp.einsum("bnhd,bnhd->b", q, q)
  assert counted(every, q) == 2 * 2 * 5 * 3 * 4


def test_a_convolution():
  x = jax.ShapeDtypeStruct((2, 9, 9, 3), jnp.float32)
  k = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
  run = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  assert counted(run, x, k) == 2 * (2 * 7 * 7 * 5) * (3 * 3 * 3)


def test_every_device_of_a_mapped_region_counts():
  mesh = mesh_lib.make_mesh(2, 2, 2, devices=jax.devices()[:8])
  rows = PartitionSpec(("data", "fsdp"))

  def run(x, w):
    body = lambda x, w: x @ w
    return jax.shard_map(
      body, in_specs=(rows, PartitionSpec()), out_specs=rows, check_vma=False
    )(x, w)

  with jax.set_mesh(mesh):
    shapes = (jax.ShapeDtypeStruct((12, 8), jnp.float32), W)
    # `tensor` shares no rows: its two devices do the same.
    assert counted(run, *shapes) == 2 * 2 * 12 * 8 * 8


def test_a_network_against_its_formula():
  """The scene policy: what its layers multiply, written out."""
  d, depth, ratio, side = 32, 3, 2, 3
  policy = scene_dit.make_policy(
    width=d, depth=depth, heads=2, mlp_ratio=ratio, text_layers=1
  )
  params = jax.eval_shape(policy.init, jax.random.key(0))
  rows = 5
  tokens = jax.ShapeDtypeStruct((rows, scene_dit.MAX_WORDS), jnp.int32)
  cond = jax.eval_shape(policy.encode, params, tokens)
  x = jax.ShapeDtypeStruct((rows, *policy.latent_shape), jnp.float32)
  t = jax.ShapeDtypeStruct((rows,), jnp.float32)
  n, keys = side * side, side * side + scene_dit.MAX_WORDS
  pixels = scene_dit.PATCH**2 * 3
  block = 6 * d * d + n * (3 + 1 + 2 * ratio) * d * d + 2 * n * keys * d
  outer = 2 * n * pixels * d + 3 * d * d + 2 * d * d
  want = 2 * rows * (depth * block + outer)
  assert counted(policy.velocity, params, x, t, cond) == want
  assert np.isfinite(want)


def test_kernels_count_as_often_as_they_run():
  """Flash attention: two products forward; seven back, weights made twice."""
  q = jax.ShapeDtypeStruct((2, 256, 3, 16), jnp.float32)
  k = jax.ShapeDtypeStruct((2, 600, 3, 16), jnp.float32)  # filled up to 640
  one = 2 * 2 * 3 * 256 * 640 * 16
  run = lambda q, k: (
    attention.flash(q, k, k).sum() + jnp.sum(q[0, 0] @ k[0, :, 0].T)
  )
  both = jax.make_jaxpr(jax.grad(run, (0, 1)))(q, k)
  forward = jax.make_jaxpr(run)(q, k)
  assert flops.count(forward, kernels_only=True) == 2 * one
  assert flops.count(forward) > 2 * one
  assert flops.count(both, kernels_only=True) == (2 + 7) * one


def test_fused_attention_counts_what_is_due():
  """Two products forward, five back, without padding or the other heads."""
  x = jax.ShapeDtypeStruct((2, 130, 128), jnp.float32)

  def run(x):
    (y,) = stream_attention.stream_attention(
      [(x, x, x)], 2, implementation="interpret"
    )
    return y.sum()

  one = 2 * 2 * 130 * 130 * 128
  assert flops.count(jax.make_jaxpr(run)(x), kernels_only=True) == 2 * one
  assert flops.count(jax.make_jaxpr(jax.grad(run))(x)) == (2 + 5) * one
