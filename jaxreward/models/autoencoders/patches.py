"""A small autoencoder of images of one size: a transformer over their patches.

A patch of the image is one latent pixel. Encoder and decoder are a few blocks that
attend to all patches, with position embeddings (as ViT-VQGAN, Yu et al. 2022,
https://arxiv.org/abs/2110.04627, without the codebook). The posterior is normal
around the encoder's output with a fixed standard deviation, and the decoder is
trained with that noise. Training gives latents about unit variance, so they are
neither shifted nor scaled.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError, require_counts, require_not_negative
from jaxreward.models import blocks
from jaxreward.models.autoencoders import vae
from jaxreward.types import Array, ArrayLike, Params

SHARDING_RULES = (
  (r"/place$", (None, "fsdp")),
  (r"/(qkv|up)/kernel$", ("fsdp", "tensor")),
  (r"/(out|down)/kernel$", ("tensor", "fsdp")),
  (r"/into/kernel$", (None, "fsdp")),
  (r"/out_of/kernel$", ("fsdp",)),
  (r"/bias$", ()),
)


class Block(nn.Module):
  """Pre-norm attention to all tokens, then an MLP."""

  heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    d = x.shape[-1]
    dense = lambda n, name, x: blocks.rows(blocks.dense(n, name, self.dtype), x)
    q, k, v = blocks.to_heads(
      dense(3 * d, "qkv", blocks.layer_norm(x)), 3, self.heads
    )
    no_bias = jnp.zeros((len(x), 1, 1, x.shape[1]))
    y = blocks.attend(blocks.rms_norm(q), blocks.rms_norm(k), v, no_bias)
    x = x + dense(d, "out", blocks.from_heads(y))
    y = blocks.squared_relu(dense(3 * d, "up", blocks.layer_norm(x)))
    return x + dense(d, "down", y)


class Half(nn.Module):
  """Encoder or decoder: tokens [B, N, A] -> [B, N, features]."""

  features: int
  width: int
  heads: int
  depth: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    d = self.width
    place = self.param("place", nn.initializers.normal(0.5), (x.shape[1], d))
    y = blocks.rows(blocks.dense(d, "into", self.dtype), x.astype(self.dtype))
    y = y + place.astype(self.dtype)
    for i in range(self.depth):
      y = Block(self.heads, self.dtype, name=f"block_{i}")(y)
    out = blocks.dense(self.features, "out_of", self.dtype)
    return blocks.rows(out, blocks.layer_norm(y)).astype(jnp.float32)


class PatchAutoencoder(nn.Module):
  """Encoder and decoder over tokens; see `make_autoencoder`."""

  patch: int
  channels: int
  width: int
  heads: int
  depth: int
  dtype: Any

  def setup(self):
    half = lambda n: Half(n, self.width, self.heads, self.depth, self.dtype)
    self.encoder = half(self.channels)
    self.decoder = half(3 * self.patch**2)

  def encode(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
    b, h, w, c = x.shape
    p = self.patch
    y = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)
    y = self.encoder(y.reshape(b, (h // p) * (w // p), p * p * c))
    return y.reshape(b, h // p, w // p, -1)

  def decode(self, z: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
    b, h, w, c = z.shape
    p = self.patch
    y = self.decoder(z.reshape(b, h * w, c))
    y = y.reshape(b, h, w, p, p, 3).swapaxes(2, 3)
    return y.reshape(b, h * p, w * p, 3)

  def __call__(self, x: Array) -> Array:
    return self.decode(self.encode(x))


def make_autoencoder(
  *,
  image_size: int = 48,
  patch: int = 8,
  channels: int = 16,
  width: int = 128,
  heads: int = 4,
  depth: int = 2,
  noise: float = 0.1,
  dtype: str = "float32",
) -> vae.Autoencoder:
  """An autoencoder of square images as pure functions.

  Args:
    image_size: pixels per side.
    patch: pixels per side of a latent pixel; divides image_size.
    channels: of the latents.
    width: features; divisible by 2 * heads.
    heads: attention heads.
    depth: blocks of the encoder, and of the decoder.
    noise: standard deviation of the posterior.
    dtype: of matrix products.

  Raises:
    UserError: sizes that do not fit together.
  """
  field = "config.autoencoder."
  require_counts(
    field, image_size=image_size, patch=patch, channels=channels, width=width,
    heads=heads, depth=depth,
  )  # fmt: skip
  require_not_negative(field, noise=noise)
  if image_size % patch:
    raise UserError(
      f"{field}patch={patch} does not divide {field}image_size={image_size}"
    )
  if width % (2 * heads):
    raise UserError(
      f"{field}width={width} is not divisible by 2 * {field}heads={2 * heads}"
    )
  net = PatchAutoencoder(patch, channels, width, heads, depth, jnp.dtype(dtype))
  side = image_size // patch

  def require(x: Array, side: int, what: str) -> Array:
    if x.shape[-3:-1] != (side, side):
      height, width = x.shape[-3:-1]
      raise UserError(
        f"{field}image_size={image_size}: the autoencoder takes {what} of {side}"
        f" x {side} pixels, and these have {height} x {width}; set"
        f" {field}image_size and config.model.image_size to fit"
      )
    return x

  def apply(params: Params, x: Array, method: str) -> Array:
    y: Any = net.apply({"params": params}, x, method=method)
    return y

  def init(key: Array) -> Params:
    pixels = jnp.zeros((1, image_size, image_size, 3))
    return net.init(key, pixels)["params"]

  def encode(
    params: Params,
    images: Float[ArrayLike, "B H W 3"],
    key: Array | None = None,
  ) -> Float[Array, "B h w C"]:
    pixels = require(jnp.asarray(images), image_size, "images")
    mean = apply(params, pixels * 2 - 1, "encode")
    if key is None:
      return mean
    return mean + noise * jax.random.normal(key, mean.shape)

  def decode(
    params: Params, latents: Float[ArrayLike, "B h w C"]
  ) -> Float[Array, "B H W 3"]:
    z = require(jnp.asarray(latents), side, "latents")
    return apply(params, z, "decode") * 0.5 + 0.5

  return vae.Autoencoder(
    init=init,
    encode=encode,
    decode=decode,
    factor=patch,
    channels=channels,
    side=side,
    sharding_rules=SHARDING_RULES,
  )
