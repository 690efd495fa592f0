"""The attention in plain operations, the contract of the kernel."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array

EPSILON = 1e-6
Stream = tuple[Array, Array, Array]
Rotary = tuple[Array, Array]


def attend(
  streams: Sequence[Stream],
  heads: int,
  scales: Float[Array, "S2 D"] | None = None,
  rotary: Rotary | None = None,
) -> list[Float[Array, "B N F"]]:
  """See `api.stream_attention`."""
  parts: list[list[Array]] = [[], [], []]
  for i, stream in enumerate(streams):
    for j, x in enumerate(stream):
      x = x.reshape(*x.shape[:2], heads, -1)
      if scales is not None and j < 2:
        x = normed(x, scales[2 * i + j])
      parts[j].append(x)
  q, k, v = (jnp.concatenate(part, axis=1) for part in parts)
  if rotary is not None:
    q, k = rotated(q, rotary), rotated(k, rotary)
  y = jax.nn.dot_product_attention(q, k, v).reshape(*q.shape[:2], -1)
  outputs, start = [], 0
  for q, _, _ in streams:
    outputs.append(y[:, start : start + q.shape[1]])
    start += q.shape[1]
  return outputs


def normed(
  x: Float[Array, "*N D"], scale: Float[Array, "D"]
) -> Float[Array, "*N D"]:
  """Unit mean square times a scale, in float32."""
  wide = x.astype(jnp.float32)
  mean = jnp.mean(jnp.square(wide), -1, keepdims=True)
  factor = jax.lax.rsqrt(mean + EPSILON) * scale.astype(jnp.float32)
  return (wide * factor).astype(x.dtype)


def rotated(x: Float[Array, "B N H D"], rotary: Rotary) -> Array:
  """Neighbouring pairs turned by their angles, in float32."""
  cos, sin = (part[None, :, None, :] for part in rotary)
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  y = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1)
  return y.reshape(x.shape).astype(x.dtype)
