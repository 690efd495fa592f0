"""Small networks on top of features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models import blocks
from jaxreward.types import Array

ACTIVATIONS = {"gelu": nn.gelu, "silu": nn.silu}


class Perceptron(nn.Module):
  """One hidden layer, or none if `hidden` is 0; zero-initialized output.

  Attributes:
    outputs: features of the result.
    hidden: features of the hidden layer.
    activation: of the hidden layer, a name of `ACTIVATIONS`.
    dtype: of the products; the result is float32.
  """

  outputs: int
  hidden: int
  activation: str = "gelu"
  dtype: Any = jnp.float32

  def setup(self):
    if self.hidden:
      self.head_in = blocks.dense(self.hidden, None, self.dtype)
    self.head_out = blocks.dense(self.outputs, None, self.dtype, zero=True)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B O"]:
    x = x.astype(self.dtype)
    if self.hidden:
      x = ACTIVATIONS[self.activation](self.head_in(x))
    return self.head_out(x).astype(jnp.float32)


class Among(nn.Module):
  """One score per image, computed in context of the others in its group.

  Attributes:
    width: features per image.
    heads: of the attention; they divide `width`.
    dtype: of the products; the result is float32.
  """

  width: int
  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "P G D"]) -> Float[Array, "P G"]:
    x = blocks.dense(self.width, "inside", self.dtype)(x.astype(self.dtype))
    attention = nn.MultiHeadDotProductAttention(
      self.heads, dtype=self.dtype, name="attention"
    )
    attended: Any = attention(blocks.layer_norm(x))
    x = x + attended
    x = x + blocks.dense(self.width, "down", self.dtype)(
      nn.gelu(
        blocks.dense(2 * self.width, "up", self.dtype)(blocks.layer_norm(x))
      )
    )
    out = blocks.dense(1, "head_out", self.dtype, zero=True)(
      blocks.layer_norm(x)
    )
    return out[..., 0].astype(jnp.float32)
