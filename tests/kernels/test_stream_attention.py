"""Attention of streams against float64, with its gradients, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.training import mesh as mesh_lib
from pallas_kernels import stream_attention as kernel

HEADS = 2
# Tokens of the streams, features of a head, norms, rotation.
CASES = {
  "two streams": ((5, 130), 64, True, False),
  "rotated": ((7, 9), 16, True, True),
  "one plain stream": ((9,), 16, False, False),
}


def operands(case, rows=2):
  tokens, width, is_normed, is_rotated = CASES[case]
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.normal(size=shape), "float32")
  streams = [
    tuple(draw(rows, n, HEADS * width) for _ in range(3)) for n in tokens
  ]
  scales = 1 + 0.3 * draw(2 * len(tokens), width) if is_normed else None
  angle = np.asarray(r.normal(size=(sum(tokens), width // 2)))
  rotary = jnp.cos(angle), jnp.sin(angle)
  return streams, scales, rotary if is_rotated else None


def exact(streams, scales, rotary):
  """In float64, head by head, by complex rotation."""
  wide = lambda x: np.asarray(x, np.float64)
  split = lambda x: wide(x).reshape(*x.shape[:2], HEADS, -1)
  parts = [[], [], []]
  for i, stream in enumerate(streams):
    for j, x in enumerate(map(split, stream)):
      if scales is not None and j < 2:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        x = x * wide(scales[2 * i + j])
      parts[j].append(x)
  q, k, v = (np.concatenate(x, 1) for x in parts)
  if rotary is not None:
    turn = (wide(rotary[0]) + 1j * wide(rotary[1]))[:, None]
    rotate = lambda x: ((x[..., ::2] + 1j * x[..., 1::2]) * turn).view(float)
    q, k = map(rotate, (q, k))
  logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  y = np.einsum("bhnm,bmhd->bnhd", weights, v)
  y = y.reshape(*y.shape[:2], -1)
  return np.split(y, np.cumsum([q.shape[1] for q, _, _ in streams])[:-1], 1)


def run(form):
  return lambda streams, scales, rotary: kernel.stream_attention(
    streams, HEADS, scales=scales, rotary=rotary, implementation=form
  )


def slopes(form, streams, scales, rotary):
  def loss(streams, scales):
    outputs = run(form)(streams, scales, rotary)
    return sum(jnp.sum(jnp.cos(y) * y) for y in outputs)

  return jax.grad(loss, (0, 1) if scales is not None else 0)(streams, scales)


@pytest.mark.turns(3)
@pytest.mark.parametrize("case", list(CASES))
def test_values_and_gradients_are_those_of_plain_operations(case):
  arrays = operands(case)
  outputs, grads = jax.jit(
    lambda *a: (run("interpret")(*a), slopes("interpret", *a))
  )(*arrays)
  plain = jax.jit(lambda *a: (run("xla")(*a), slopes("xla", *a)))(*arrays)
  for y, z, expected in zip(outputs, plain[0], exact(*arrays), strict=True):
    np.testing.assert_allclose(y, expected, atol=2e-6)
    np.testing.assert_allclose(z, expected, atol=2e-6)
  for y, z in zip(*map(jax.tree.leaves, (grads, plain[1])), strict=True):
    np.testing.assert_allclose(y, z, atol=2e-5)


@pytest.mark.turns(2)
def test_a_mesh_gives_the_same():
  arrays = operands("one plain stream", rows=4)
  mesh = mesh_lib.make_mesh(2, 2, 1, devices=jax.devices()[:4])
  expected = slopes("xla", *arrays)
  with jax.set_mesh(mesh):
    grads = jax.jit(lambda *a: slopes("interpret", *a))(*arrays)
  for y, z in zip(*map(jax.tree.leaves, (grads, expected)), strict=True):
    np.testing.assert_allclose(y, z, atol=2e-5)


def test_sizes_that_do_not_fill_registers_are_refused():
  x = jnp.zeros((1, 8, 3 * 64))
  with pytest.raises(UserError, match="3 heads of 64 features"):
    kernel.stream_attention([(x,) * 3], 3, implementation="interpret")
  with pytest.raises(UserError, match='implementation="triton"'):
    kernel.stream_attention([(x,) * 3], 3, implementation="triton")
  assert kernel.fits(24, 64, 1357)
  assert kernel.fits(24, 128, 1536)
  assert not kernel.fits(3, 64, 1357)
  assert not kernel.fits(12, 128, 32760)
