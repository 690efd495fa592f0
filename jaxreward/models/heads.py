"""Small networks on top of features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models import blocks
from jaxreward.types import Array


class Perceptron(nn.Module):
  """One hidden layer, or none where `hidden` is 0; it starts at zero.

  Attributes:
    outputs: features of the result.
    hidden: features of the hidden layer.
    dtype: of the products; the result is float32.
  """

  outputs: int
  hidden: int
  dtype: Any = jnp.float32

  def setup(self):
    if self.hidden:
      self.head_in = blocks.dense(self.hidden, None, self.dtype)
    self.head_out = blocks.dense(self.outputs, None, self.dtype, zero=True)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B O"]:
    x = x.astype(self.dtype)
    if self.hidden:
      x = nn.gelu(self.head_in(x))
    return self.head_out(x).astype(jnp.float32)
