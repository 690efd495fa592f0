"""Blocks shared by the architectures.

Arrays are kept two-dimensional, [rows, features], around every matrix product:
that is the form in which XLA's CPU backend is fastest, and it costs nothing
elsewhere.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest
from jaxreward.types import Array, ArrayLike

REMAT = ("none", "dots", "full")


def dense(
  features: int,
  name: str | None,
  dtype,
  *,
  zero: bool = False,
  bias: bool = True,
) -> nn.Dense:
  """Linear layer with float32 parameters; `zero` initializes it to 0."""
  init = (
    nn.initializers.zeros
    if zero
    else nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
  )
  return nn.Dense(
    features, name=name, dtype=dtype, param_dtype=jnp.float32,
    kernel_init=init, use_bias=bias,
  )  # fmt: skip


def require_remat(how: str) -> None:
  """Raises `UserError` for a name that is not in REMAT."""
  if how not in REMAT:
    raise UserError(f'model.remat="{how}" is not known{nearest(how, REMAT)}')


def remat(block: Any, how: str) -> Any:
  """The block with activations stored, stored for products only, or recomputed.

  Args:
    block: a module class, for `nn.scan`.
    how: "none" stores all, "dots" the outputs of matrix products without batch
      dimensions, "full" only the inputs of the block.
  """
  if how == "none":
    return block
  policies = jax.checkpoint_policies
  policy = (
    policies.dots_with_no_batch_dims_saveable
    if how == "dots"
    else policies.nothing_saveable
  )
  return nn.remat(block, prevent_cse=False, policy=policy)


def rows(layer: nn.Module, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
  """Applies a layer to [..., D] as one [rows, D] product."""
  y = layer(x.reshape(-1, x.shape[-1]))
  return y.reshape(*x.shape[:-1], y.shape[-1])


def layer_norm(x: Float[ArrayLike, "*N D"]) -> Float[Array, "*N D"]:
  """Normalises the last axis in float32, without parameters."""
  x = jnp.asarray(x)
  return _layer_norm(x.astype(jnp.float32)).astype(x.dtype)


def rms_norm(x: Float[ArrayLike, "*N D"]) -> Float[Array, "*N D"]:
  """Scales the last axis to unit mean square, in float32."""
  x = jnp.asarray(x)
  return _rms_norm(x.astype(jnp.float32)).astype(x.dtype)


# Their gradients are written out: derived ones read and write the rows about
# twice as often, and these two are bound by memory.


@jax.custom_vjp
def _layer_norm(x):
  return _layer_norm_forward(x)[0]


def _layer_norm_forward(x):
  centred = x - x.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  scale = jax.lax.rsqrt(variance + 1e-6)
  y = centred * scale
  return y, (y, scale)


def _layer_norm_backward(residuals, g):
  y, scale = residuals
  along = (g * y).mean(-1, keepdims=True)
  return (scale * (g - g.mean(-1, keepdims=True) - y * along),)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def _rms_norm(x):
  return _rms_norm_forward(x)[0]


def _rms_norm_forward(x):
  scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
  y = x * scale
  return y, (y, scale)


def _rms_norm_backward(residuals, g):
  y, scale = residuals
  return (scale * (g - y * (g * y).mean(-1, keepdims=True)),)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def squared_relu(x: Float[ArrayLike, "*N"]) -> Float[Array, "*N"]:
  """max(x, 0) squared (So et al., 2021, Primer)."""
  return jnp.square(jax.nn.relu(x))


def to_heads(
  x: Float[Array, "B N F"], parts: int, heads: int
) -> Float[Array, "{parts} B {heads} N D"]:
  """[B, N, parts * H * D] -> [parts, B, H, N, D]."""
  x = x.reshape(*x.shape[:2], parts, heads, -1)
  return x.transpose(2, 0, 3, 1, 4)


def from_heads(x: Float[Array, "B H N D"]) -> Float[Array, "B N H*D"]:
  """[B, H, N, D] -> [B, N, H * D]."""
  x = x.swapaxes(1, 2)
  return x.reshape(*x.shape[:2], -1)


def key_bias(
  mask: Bool[ArrayLike, "B L"], prefix: int = 0
) -> Float[Array, "B 1 1 {prefix}+L"]:
  """0 where a key is attended to, else low enough for a weight of 0.

  The first `prefix` keys, which `mask` does not cover, are always attended to.
  """
  bias = jnp.where(mask, 0.0, -1e30)
  return jnp.pad(bias, ((0, 0), (prefix, 0)))[:, None, None, :]


@jax.custom_vjp
def attend(
  q: Float[Array, "B H N D"],
  k: Float[Array, "B H M D"],
  v: Float[Array, "B H M D"],
  bias: Float[Array, "B 1 1 M"],
) -> Float[Array, "B H N D"]:
  """Softmax attention, heads first.

  The head axis comes before tokens, so that each product is batched over
  leading axes and no operand is transposed. Rows of q and k come from
  `rms_norm`: no logit exceeds sqrt(D), and the softmax needs no max
  subtraction.

  Args:
    q: [B, H, N, D].
    k: [B, H, M, D].
    v: [B, H, M, D].
    bias: from `key_bias`, has no derivative; at least one key of each row
      is not masked.

  Returns:
    [B, H, N, D].
  """
  return _attend_forward(q, k, v, bias)[0]


def _attend_forward(q, k, v, bias):
  logits = jnp.einsum(
    "bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32
  )
  weight = jnp.exp(logits * q.shape[-1] ** -0.5 + bias)
  weight = weight / weight.sum(-1, keepdims=True)
  out = jnp.einsum("bhnm,bhmd->bhnd", weight.astype(v.dtype), v)
  return out, (q, k, v, weight)


def _attend_backward(residuals, g):
  q, k, v, weight = residuals
  # With the barrier the small matrix is transposed only once; the product
  # would transpose and pack it again for every head.
  flip = lambda x: jax.lax.optimization_barrier(x.swapaxes(-1, -2))
  dv = jnp.einsum("bhmn,bhnd->bhmd", flip(weight.astype(g.dtype)), g)
  dw = jnp.einsum("bhnd,bhmd->bhnm", g, v, preferred_element_type=jnp.float32)
  dl = weight * (dw - (weight * dw).sum(-1, keepdims=True))
  dl = (dl * q.shape[-1] ** -0.5).astype(q.dtype)
  dq = jnp.einsum("bhnm,bhmd->bhnd", dl, k)
  dk = jnp.einsum("bhmn,bhnd->bhmd", flip(dl), q)
  return dq, dk, dv, None


attend.defvjp(_attend_forward, _attend_backward)


def timestep_features(
  t: Float[ArrayLike, "B"], width: int
) -> Float[Array, "B {width}"]:
  """Sinusoids of t in [0, 1] at frequencies 1 to 1000, [B, width]."""
  frequency = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), width // 2))
  angle = t[:, None] * frequency[None]
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
