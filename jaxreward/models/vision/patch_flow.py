"""A flow model of image patches, conditioned on their positions."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models import blocks
from jaxreward.types import Array, ArrayLike


def patches(
  images: Float[ArrayLike, "B H W C"], cells: int
) -> Float[Array, "B N D"]:
  """cells x cells patches of images in [0, 1], as features in [-1, 1].

  Raises:
    UserError: sides that are not multiples of `cells`.
  """
  images = jnp.asarray(images, jnp.float32)
  b, height, width, channels = images.shape
  if height % cells or width % cells:
    raise UserError(
      f"cells={cells}: it has to divide the {height} x {width} pixels of an image"
    )
  h, w = height // cells, width // cells
  x = images.reshape(b, cells, h, cells, w, channels).swapaxes(2, 3)
  return x.reshape(b, cells * cells, h * w * channels) * 2 - 1


class PatchFlow(nn.Module):
  """Velocities of noisy patches, given time and position.

  Attributes:
    width: features of the layers.
    depth: layers, each modulated by time and position.
  """

  width: int = 64
  depth: int = 2

  @nn.compact
  def __call__(
    self, x: Float[Array, "B N D"], t: Float[Array, "*B"]
  ) -> Float[Array, "B N D"]:
    b, n, d = x.shape
    place = self.param("place", nn.initializers.normal(0.5), (n, self.width))
    times = blocks.timestep_features(
      jnp.broadcast_to(jnp.asarray(t), (b,)), self.width
    )
    signal = nn.silu(nn.Dense(self.width, name="time")(times)[:, None] + place)
    h = nn.Dense(self.width, name="into")(x)
    for i in range(self.depth):
      both = nn.Dense(2 * self.width, name=f"modulation_{i}")(signal)
      shift, scale = jnp.split(both, 2, -1)
      y = blocks.layer_norm(h) * (1 + scale) + shift
      h = h + nn.Dense(self.width, name=f"layer_{i}")(nn.silu(y))
    out = nn.Dense(d, name="out", kernel_init=nn.initializers.zeros)
    return out(blocks.layer_norm(h))
