"""Discriminates a policy's images from reference images, globally and by
patch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array, ArrayLike


class Head(nn.Module):
  """Unit features -> one logit, through one GELU layer."""

  hidden: int

  @nn.compact
  def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N"]:
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    x = nn.gelu(nn.Dense(self.hidden, name="into")(x * x.shape[-1] ** 0.5))
    return nn.Dense(1, name="out")(x)[..., 0]


class Discriminator(nn.Module):
  """Logits of an image and of its locations, by convolutions of stride 2.

  Attributes:
    width: channels of the first layer; each of the next has twice as many.
    depth: layers.
    hidden: features of a head.
  """

  width: int = 32
  depth: int = 2
  hidden: int = 512

  @nn.compact
  def __call__(
    self, images: Float[ArrayLike, "B H W C"]
  ) -> tuple[Float[Array, "B"], Float[Array, "B N"]]:
    x = jnp.asarray(images, jnp.float32) * 2 - 1
    for i in range(self.depth):
      x = nn.Conv(self.width * 2**i, (4, 4), 2, name=f"conv_{i}")(x)
      x = jax.nn.leaky_relu(nn.LayerNorm(name=f"norm_{i}")(x), 0.2)
    places = x.reshape(x.shape[0], -1, x.shape[-1])
    image_logits = Head(self.hidden, name="whole")(places.mean(1))
    return image_logits, Head(self.hidden, name="places")(places)
