"""Blocks that the architectures share.

Arrays are kept two-dimensional, [rows, features], around every matrix product:
that is the form in which XLA's CPU backend is fastest, and it costs nothing
elsewhere.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.types import Array, ArrayLike


def dense(
  features: int, name: str | None, dtype, *, zero: bool = False
) -> nn.Dense:
  """Linear layer with float32 parameters; `zero` starts it at nothing."""
  init = (
    nn.initializers.zeros
    if zero
    else nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
  )
  return nn.Dense(
    features, name=name, dtype=dtype, param_dtype=jnp.float32, kernel_init=init
  )


def rows(layer: nn.Module, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
  """Applies a layer to [..., D] as one [rows, D] product."""
  y = layer(x.reshape(-1, x.shape[-1]))
  return y.reshape(*x.shape[:-1], y.shape[-1])


def layer_norm(x: Float[ArrayLike, "*N D"]) -> Float[Array, "*N D"]:
  """Normalises the last axis in float32, without parameters."""
  x = jnp.asarray(x)
  x32 = x.astype(jnp.float32)
  mean = x32.mean(-1, keepdims=True)
  var = jnp.square(x32 - mean).mean(-1, keepdims=True)
  return ((x32 - mean) * jax.lax.rsqrt(var + 1e-6)).astype(x.dtype)


def rms_norm(x: Float[ArrayLike, "*N D"]) -> Float[Array, "*N D"]:
  """Scales the last axis to unit mean square, in float32."""
  x = jnp.asarray(x)
  x32 = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + 1e-6)
  return (x32 * scale).astype(x.dtype)


def squared_relu(x: Float[ArrayLike, "*N"]) -> Float[Array, "*N"]:
  """max(x, 0) squared (So et al., 2021, Primer)."""
  return jnp.square(jax.nn.relu(x))


def attention(
  q: Float[ArrayLike, "B N H D"],
  k: Float[ArrayLike, "B M H D"],
  v: Float[ArrayLike, "B M H D"],
  key_mask: Bool[ArrayLike, "B M"] | None,
) -> Float[Array, "B N H*D"]:
  """Softmax attention with normalised queries and keys.

  Args:
    q: [B, N, H, D].
    k: [B, M, H, D].
    v: [B, M, H, D].
    key_mask: bool [B, M] or None; False keys are not attended to.

  Returns:
    [B, N, H * D].
  """
  mask = None if key_mask is None else key_mask[:, None, None, :]
  out = jax.nn.dot_product_attention(rms_norm(q), rms_norm(k), v, mask=mask)
  return out.reshape(*out.shape[:2], -1)


def timestep_features(
  t: Float[ArrayLike, "B"], width: int
) -> Float[Array, "B {width}"]:
  """Sinusoids of t in [0, 1] at frequencies 1 to 1000, [B, width]."""
  frequency = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), width // 2))
  angle = t[:, None] * frequency[None]
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
