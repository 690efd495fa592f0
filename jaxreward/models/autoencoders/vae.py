"""The autoencoder between images and latents of SD3, FLUX.1 and Z-Image.

A convolutional KL autoencoder (Rombach et al. 2022,
https://arxiv.org/abs/2112.10752) with 16 latent channels at an eighth of the
side. Latents are shifted and scaled to about unit variance.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models import blocks, convert, fields
from jaxreward.models.autoencoders import tiles
from jaxreward.models.policies import latent_policy
from jaxreward.types import Array, ArrayLike, Params

SIZES: dict[str, dict[str, Any]] = {
  "sd3": dict(scaling=1.5305, shift=0.0609),
  "flux": dict(scaling=0.3611, shift=0.1159),
  "tiny": dict(
    widths=(8, 16), layers=1, groups=4, channels=4, scaling=1.5, shift=0.1
  ),
}

# 84 million parameters (705 million for Wan 2.2) are replicated.
SHARDING_RULES = ((r"(kernel|bias|scale|mean|variance)$", ()),)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """An autoencoder as pure functions of its parameters.

  Attributes:
    init: key -> params.
    encode: (params, images [B, H, W, 3] in [0, 1], key or None) -> latents
      [B, h, w, C]; the mean of the posterior without a key.
    decode: (params, latents [B, h, w, C]) -> images [B, H, W, 3], not clipped.
    factor: H / h.
    channels: C.
    is_video: takes [B, F, H, W, 3] and gives [B, f, h, w, C].
    side: the only supported h and w; 0 for any.
    sharding_rules: ((parameter path regex, mesh axes per dimension), ...).
    layout: the table of public names of its parameters.
    public_fields: accepted fields of a public config.
  """

  init: Callable[..., Params]
  encode: Callable[..., Array]
  decode: Callable[..., Array]
  factor: int
  channels: int
  is_video: bool = False
  side: int = 0
  sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
  layout: tuple[convert.Rule, ...] = ()
  public_fields: fields.Fields | None = None


class _Part(nn.Module):
  """Names and sizes shared by the parts."""

  groups: int
  dtype: Any

  def norm(self, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(
      self.groups, epsilon=1e-6, dtype=self.dtype, use_fast_variance=False,
      name=name,
    )  # fmt: skip

  def conv(
    self,
    features: int,
    name: str,
    side: int = 3,
    strides: int = 1,
    padding: Any = None,
  ) -> nn.Conv:
    return nn.Conv(
      features,
      (side, side),
      strides=strides,
      padding=side // 2 if padding is None else padding,
      dtype=self.dtype,
      name=name,
    )


class ResBlock(_Part):
  """Two normalised convolutions around a skip connection."""

  width: int = 0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = self.conv(self.width, "conv1")(nn.silu(self.norm("norm1")(x)))
    y = self.conv(self.width, "conv2")(nn.silu(self.norm("norm2")(y)))
    if x.shape[-1] != self.width:
      x = self.conv(self.width, "conv_shortcut", side=1)(x)
    return x + y


class PixelAttention(_Part):
  """One head over all pixels."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, d = x.shape
    y = self.norm("group_norm")(x).reshape(b, h * w, 1, d)
    q, k, v = (blocks.dense(d, f"to_{n}", self.dtype)(y) for n in "qkv")
    y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    return x + blocks.dense(d, "to_out", self.dtype)(y)


class _Coder(_Part):
  """Shared by encoder and decoder; widths from the pixel side inwards."""

  widths: tuple[int, ...] = ()
  layers: int = 2
  out: int = 3
  remat: str = "none"

  def res(self, width: int, name: str) -> nn.Module:
    block = blocks.remat(ResBlock, self.remat)
    return block(self.groups, self.dtype, width, name=name)

  def middle(self, x: Array) -> Array:
    width = self.widths[-1]
    x = self.res(width, "mid_0")(x)
    x = PixelAttention(self.groups, self.dtype, name="mid_attention")(x)
    return self.res(width, "mid_1")(x)

  def last(self, x: Array) -> Array:
    return self.conv(self.out, "conv_out")(nn.silu(self.norm("norm_out")(x)))


class Encoder(_Coder):
  """Images to the mean and log-variance of their latents."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = self.conv(self.widths[0], "conv_in")(x)
    for i, width in enumerate(self.widths):
      for j in range(self.layers):
        x = self.res(width, f"down_{i}_{j}")(x)
      if i < len(self.widths) - 1:
        edge = ((0, 1), (0, 1))
        x = self.conv(width, f"sample_{i}", strides=2, padding=edge)(x)
    return self.last(self.middle(x))


class Decoder(_Coder):
  """Latents to images."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = self.middle(self.conv(self.widths[-1], "conv_in")(x))
    for i, width in enumerate(reversed(self.widths)):
      for j in range(self.layers + 1):
        x = self.res(width, f"up_{i}_{j}")(x)
      if i < len(self.widths) - 1:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        x = self.conv(width, f"sample_{i}")(x)
    return self.last(x)


class AutoencoderKL(nn.Module):
  """Encoder and decoder; pixels lie in [-1, 1], latents are not scaled here.

  Attributes:
    widths: features at each scale, from the pixel side inwards.
    layers: residual blocks per scale of the encoder; the decoder has one more.
    groups: of the group normalisations.
    channels: of the latents.
    scaling: latents = (raw - shift) * scaling.
    shift: see `scaling`.
  """

  scaling: float
  shift: float
  widths: tuple[int, ...] = (128, 256, 512, 512)
  layers: int = 2
  groups: int = 32
  channels: int = 16
  remat: str = "none"
  dtype: Any = jnp.float32

  def setup(self):
    make = lambda kind, out: kind(
      self.groups, self.dtype, self.widths, self.layers, out, self.remat
    )
    self.encoder = make(Encoder, 2 * self.channels)
    self.decoder = make(Decoder, 3)

  def encode(self, x: Array) -> Array:
    return self.encoder(x)

  def decode(self, z: Array) -> Array:
    return self.decoder(z)

  def __call__(self, x: Array) -> Array:
    """Reconstructs an image from the mean of its posterior."""
    return self.decode(self.encode(x)[..., : self.channels])


def layout(net: AutoencoderKL) -> tuple[convert.Rule, ...]:
  """The diffusers names (`AutoencoderKL`) of the parameters."""
  rules: list[convert.Rule] = []
  depth = len(net.widths)
  inward = list(zip((net.widths[0], *net.widths), net.widths, strict=False))
  outward = net.widths[::-1]
  outward = list(zip((outward[0], *outward), outward, strict=False))
  for side, way, scales, layers in (
    ("encoder", "down", inward, net.layers),
    ("decoder", "up", outward, net.layers + 1),
  ):
    for name in ("conv_in", "conv_out"):
      rules += convert.conv(f"{side}/{name}", f"{side}.{name}")
    rules += convert.norm(f"{side}/norm_out", f"{side}.conv_norm_out")
    for i in (0, 1):
      rules += _res(f"{side}/mid_{i}", f"{side}.mid_block.resnets.{i}", False)
    ours, public = f"{side}/mid_attention", f"{side}.mid_block.attentions.0"
    rules += convert.norm(f"{ours}/group_norm", f"{public}.group_norm")
    for part in ("to_q", "to_k", "to_v"):
      rules += convert.linear(f"{ours}/{part}", f"{public}.{part}")
    rules += convert.linear(f"{ours}/to_out", f"{public}.to_out.0")
    for i, (before, width) in enumerate(scales):
      public = f"{side}.{way}_blocks.{i}"
      for j in range(layers):
        changes = j == 0 and before != width
        rules += _res(f"{side}/{way}_{i}_{j}", f"{public}.resnets.{j}", changes)
      if i < depth - 1:
        name = f"{public}.{way}samplers.0.conv"
        rules += convert.conv(f"{side}/sample_{i}", name)
  return tuple(rules)


def _res(ours: str, public: str, shortcut: bool) -> tuple[convert.Rule, ...]:
  rules = [
    *convert.norm(f"{ours}/norm1", f"{public}.norm1"),
    *convert.conv(f"{ours}/conv1", f"{public}.conv1"),
    *convert.norm(f"{ours}/norm2", f"{public}.norm2"),
    *convert.conv(f"{ours}/conv2", f"{public}.conv2"),
  ]
  if shortcut:
    rules += convert.conv(f"{ours}/conv_shortcut", f"{public}.conv_shortcut")
  return tuple(rules)


def public_config(net: AutoencoderKL) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  depth = len(net.widths)
  return {
    "_class_name": "AutoencoderKL",
    "block_out_channels": list(net.widths),
    "down_block_types": ["DownEncoderBlock2D"] * depth,
    "up_block_types": ["UpDecoderBlock2D"] * depth,
    "layers_per_block": net.layers,
    "norm_num_groups": net.groups,
    "latent_channels": net.channels,
    "sample_size": 1024,
    "scaling_factor": net.scaling,
    "shift_factor": net.shift,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
  }


def public_fields(net: AutoencoderKL) -> fields.Fields:
  """Accepted fields of `config.json` for this autoencoder.

  Latents are scaled by a scalar: pipelines of these models read neither
  `latents_mean` nor `latents_std`.
  """
  known = fields.Fields(
    fixed={
      "act_fn": ("silu",),
      "in_channels": (3,),
      "latents_mean": (None,),
      "latents_std": (None,),
      "mid_block_add_attention": (True,),
      "out_channels": (3,),
    },
    unread=("force_upcast", "sample_size"),
    absent={
      "scaling_factor": 0.18215, "shift_factor": None,
      "use_quant_conv": True, "use_post_quant_conv": True,
    },
  )  # fmt: skip
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> AutoencoderKL:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(AutoencoderKL, SIZES, size, fields)


def make_autoencoder(
  *,
  size: str = "sd3",
  tile: int = 0,
  overlap: int = 64,
  remat: str = "none",
  dtype: str = "float32",
) -> Autoencoder:
  """An autoencoder as pure functions.

  Args:
    size: one of `SIZES`.
    tile: side in pixels of the tiles that are encoded or decoded one at a time,
      to bound memory; 0 for no tiling.
    overlap: pixels shared by neighbouring tiles.
    remat: "none" or "full" (store only the inputs of residual blocks).
    dtype: of products and convolutions.

  Raises:
    UserError: an unknown size, or tiles that do not fit the latents.
  """
  net = make_net(size, remat=remat, dtype=jnp.dtype(dtype))
  return of_net(
    net,
    tile,
    overlap,
    lambda params, raw: (raw - net.shift) * net.scaling,
    lambda params, z: z / net.scaling + net.shift,
    layout=layout(net),
    public_fields=public_fields(net),
  )


def of_net(
  net: AutoencoderKL,
  tile: int,
  overlap: int,
  to_latents: Callable[[Params, Array], Array],
  to_raw: Callable[[Params, Array], Array],
  *,
  packing: int = 1,
  **tables: Any,
) -> Autoencoder:
  """The functions of a network.

  Args:
    net: the network.
    tile: see `make_autoencoder`.
    overlap: see `make_autoencoder`.
    to_latents: (params, the posterior's mean or a sample of it) -> latents.
    to_raw: its inverse.
    packing: side of the squares that are packed into one latent pixel.
    **tables: `layout` and `public_fields`.

  Raises:
    UserError: tiles that do not fit the latents.
  """
  factor = 2 ** (len(net.widths) - 1)
  tiles.check(tile, overlap, factor)
  outer, inner = (tile, overlap), (tile // factor, overlap // factor)

  def apply(params: Params, x: Array, method: str) -> Array:
    y: Any = net.apply({"params": params}, x, method=method)
    return y.astype(jnp.float32)

  def init(key: Array) -> Params:
    return net.init(key, jnp.zeros((1, 4 * factor, 4 * factor, 3)))["params"]

  def encode(
    params: Params, images: ArrayLike, key: Array | None = None
  ) -> Float[Array, "B h w C"]:
    pixels = jnp.asarray(images) * 2 - 1
    run = functools.partial(apply, params, method="encode")
    mean, log_variance = jnp.split(tiles.run(run, pixels, outer, inner), 2, -1)
    if key is not None:
      std = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
      mean = mean + std * jax.random.normal(key, mean.shape)
    return to_latents(params, mean)

  def decode(params: Params, latents: ArrayLike) -> Float[Array, "B H W 3"]:
    raw = to_raw(params, jnp.asarray(latents))
    run = functools.partial(apply, params, method="decode")
    return tiles.run(run, raw, inner, outer) * 0.5 + 0.5

  return Autoencoder(
    init=init,
    encode=encode,
    decode=decode,
    factor=factor * packing,
    channels=net.channels * packing**2,
    sharding_rules=SHARDING_RULES,
    **tables,
  )
