"""The causal video autoencoders of Wan 2.1, Qwen-Image and Wan 2.2 TI2V.

Wan team 2025 (https://arxiv.org/abs/2503.20314). A frame of latents depends on
frames up to its own: convolutions are causal in time. The first frame is
encoded alone, each further latent frame holds four frames of the video; an
image is a video of one frame. Latents have an eighth of the side and are
normalised per channel. The TI2V autoencoder folds squares of 2 x 2 pixels into
channels, hence a sixteenth of the side, and has skip connections around each
scale: means in the encoder, copies in the decoder.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.models import blocks, convert, fields
from jaxreward.models.autoencoders import tiles
from jaxreward.models.autoencoders.vae import SHARDING_RULES, Autoencoder
from jaxreward.models.policies import latent_policy
from jaxreward.types import Array, ArrayLike, Params

_MEAN = (
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
  0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
_MEAN_22 = (
  -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
  -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
  -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
  -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
  -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
  0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_STD_22 = (
  0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
  0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
  0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
  0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
  0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
  0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
_TINY = dict(
  width=4, layers=1, mean=(0.1, -0.2, 0.3, 0.0), std=(2.0, 1.5, 1.0, 0.5)
)
SIZES: dict[str, dict[str, Any]] = {
  "wan21": dict(mean=_MEAN, std=_STD),
  "wan22": dict(
    mean=_MEAN_22, std=_STD_22, width=160, outward=256, patch=2, residual=True
  ),
  "tiny": _TINY,
  "tiny22": dict(_TINY, outward=8, patch=2, residual=True),
}
# Which downsamplings, from the pixel side inwards, also halve the time.
_IN_TIME = (False, True, True)
PAST = "past"  # frames that causal convolutions cache between calls


class ChannelNorm(nn.Module):
  """Normalises the features of a pixel to length sqrt(D), then scales."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    y = x.astype(jnp.float32)
    # The gradient of a zero pixel is zero.
    square = jnp.sum(jnp.square(y), -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.maximum(square, 1e-24)) * x.shape[-1] ** 0.5
    return y.astype(x.dtype) * scale.astype(x.dtype)


class CausalConv(nn.Conv):
  """A convolution over the current and two previous frames, zero-padded.

  If the collection `PAST` is mutable, frames may come in several calls: the
  last two are cached for the next call.
  """

  @nn.compact
  def __call__(self, inputs: Array, skip: bool = False) -> Array:
    """The convolved frames; `skip` returns the inputs and caches nothing."""
    past = jnp.zeros((inputs.shape[0], 2, *inputs.shape[2:]), inputs.dtype)
    if self.is_mutable_collection(PAST):
      cache = self.variable(PAST, "frames", lambda: past)
      past = cache.value
      if not skip:
        cache.value = jnp.concatenate([past, inputs], axis=1)[:, -2:]
    if skip and not self.is_initializing():
      return inputs
    return super().__call__(jnp.concatenate([past, inputs], axis=1))


class _Part(nn.Module):
  """Convolutions over [B, T, H, W, C]."""

  dtype: Any

  def causal(
    self, features: int, name: str, window: tuple[int, int, int] = (3, 3, 3)
  ) -> CausalConv:
    around = [(0, 0), *((n // 2, n // 2) for n in window[1:])]
    return CausalConv(
      features, window, padding=around, dtype=self.dtype, name=name
    )

  def point(self, features: int, name: str) -> nn.Dense:
    return blocks.dense(features, name, self.dtype)


class ResBlock(_Part):
  """Two normalised causal convolutions around a skip connection."""

  width: int = 0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = nn.silu(ChannelNorm(name="norm1")(x))
    y = self.causal(self.width, "conv1")(y)
    y = nn.silu(ChannelNorm(name="norm2")(y))
    y = self.causal(self.width, "conv2")(y)
    if x.shape[-1] != self.width:
      x = self.point(self.width, "conv_shortcut")(x)
    return x + y


class FrameAttention(_Part):
  """One head over the pixels of each frame."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, t, h, w, d = x.shape
    y = self.point(3 * d, "qkv")(ChannelNorm(name="norm")(x))
    q, k, v = jnp.split(y.reshape(b * t, h * w, 1, 3 * d), 3, axis=-1)
    y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    return x + self.point(d, "proj")(y)


class Downsample(_Part):
  """Halves the side and, with `in_time`, the frames after the first."""

  in_time: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    width = x.shape[-1]
    x = nn.Conv(
      width, (3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=self.dtype,
      name="space",
    )(x)  # fmt: skip
    if not self.in_time:
      return x
    along = nn.Conv(
      width, (3, 1, 1), strides=(2, 1, 1), padding="VALID", dtype=self.dtype,
      name="time",
    )  # fmt: skip
    # A single frame has no later frames; parameters are created anyway.
    if x.shape[1] == 1 and not self.is_initializing():
      return x
    later = along(x if x.shape[1] > 1 else jnp.repeat(x, 3, axis=1))
    return x if x.shape[1] == 1 else jnp.concatenate([x[:, :1], later], axis=1)


def fewer(
  x: Float[Array, "B T H W C"], features: int, in_time: bool, side: int
) -> Float[Array, "B t h w D"]:
  """Means of neighbouring pixels, frames and features.

  Frames are paired from the last one; the first is paired with zeros.

  Args:
    x: features of a video.
    features: D.
    in_time: whether frames are paired.
    side: of the squares of pixels.
  """
  pair = 1 + in_time
  x = jnp.pad(x, ((0, 0), (-x.shape[1] % pair, 0), *[(0, 0)] * 3))
  b, t, h, w, c = x.shape
  x = x.reshape(b, t // pair, pair, h // side, side, w // side, side, c)
  x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
  return x.reshape(*x.shape[:4], features, -1).mean(-1)


def more(
  x: Float[Array, "B T H W C"], features: int, in_time: bool
) -> Float[Array, "B t h w D"]:
  """Copies features to four pixels, and to two frames with `in_time`."""
  pair = 1 + in_time
  b, t, h, w, c = x.shape
  x = jnp.repeat(x, features * 4 * pair // c, axis=-1)
  x = x.reshape(b, t, h, w, features, pair, 2, 2)
  x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
  return x.reshape(b, t * pair, 2 * h, 2 * w, features)


class Upsample(_Part):
  """Doubles the side and, with `in_time`, the frames after the first."""

  width: int = 0
  in_time: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if self.in_time:
      x = self.twice(x)
    x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    return nn.Conv(
      self.width, (3, 3), padding=1, dtype=self.dtype, name="space"
    )(x)

  def twice(self, x: Array) -> Array:
    """Doubles every frame except the first of the video."""
    b, _, h, w, d = x.shape
    along = self.causal(2 * d, "time", (3, 1, 1))
    is_later = self.has_variable(PAST, "later")
    if self.is_mutable_collection(PAST):
      self.variable(PAST, "later", jnp.zeros, ())
    first, later = (x[:, :0], x) if is_later else (x[:, :1], x[:, 1:])
    if not later.shape[1]:
      # A single frame has no later frames; parameters are created anyway.
      along(x, skip=True)
      return x
    pairs = along(later).reshape(b, later.shape[1], h, w, 2, d)
    pairs = jnp.moveaxis(pairs, 4, 2).reshape(b, -1, h, w, d)
    return jnp.concatenate([first, pairs], axis=1)


class _Coder(_Part):
  """Shared by encoder and decoder."""

  widths: tuple[int, ...] = ()  # from the pixel side inwards
  layers: int = 2
  out: int = 3
  residual: bool = False
  remat: str = "none"

  def res(self, width: int, name: str) -> nn.Module:
    return blocks.remat(ResBlock, self.remat)(self.dtype, width, name=name)

  def middle(self, x: Array) -> Array:
    x = self.res(self.widths[-1], "mid_0")(x)
    x = FrameAttention(self.dtype, name="mid_attention")(x)
    return self.res(self.widths[-1], "mid_1")(x)

  def last(self, x: Array) -> Array:
    x = nn.silu(ChannelNorm(name="norm_out")(x))
    return self.causal(self.out, "conv_out")(x)


class Encoder(_Coder):
  """Videos to the mean and log-variance of their latents."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = self.causal(self.widths[0], "conv_in")(x)
    for i, width in enumerate(self.widths):
      before, halves = x, i < len(self.widths) - 1
      in_time = halves and _IN_TIME[i]
      for j in range(self.layers):
        x = self.res(width, f"down_{i}_{j}")(x)
      if halves:
        x = Downsample(self.dtype, in_time, name=f"sample_{i}")(x)
      if self.residual:
        x = x + fewer(before, width, in_time, 1 + halves)
    x = self.last(self.middle(x))
    return self.point(self.out, "quant")(x)


class Decoder(_Coder):
  """Latents to videos."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = self.point(x.shape[-1], "quant")(x)
    x = self.middle(self.causal(self.widths[-1], "conv_in")(x))
    for i, width in enumerate(reversed(self.widths)):
      before = x
      for j in range(self.layers + 1):
        x = self.res(width, f"up_{i}_{j}")(x)
      if i == len(self.widths) - 1:
        break
      in_time = _IN_TIME[::-1][i]
      features = width if self.residual else width // 2
      x = Upsample(self.dtype, features, in_time, name=f"sample_{i}")(x)
      if self.residual:
        around = more(before, width, in_time)
        # The first frame is not doubled; its second copy is used.
        x = x + around[:, around.shape[1] - x.shape[1] :]
    return self.last(x)


class VideoAutoencoder(nn.Module):
  """Encoder and decoder; pixels in [-1, 1], latents not normalised here.

  Both work on squares of pixels, see `to_squares`.

  Attributes:
    mean: of the latents, per channel.
    std: of the latents, per channel.
    width: features at the pixel side.
    multiples: of the width at each scale, from the pixels inwards.
    layers: residual blocks per scale of the encoder; the decoder has one more.
    outward: width of the decoder; 0 for that of the encoder.
    patch: side of the squares folded into one pixel.
    residual: whether there are skip connections around each scale.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  width: int = 96
  multiples: tuple[int, int, int, int] = (1, 2, 4, 4)
  layers: int = 2
  outward: int = 0
  patch: int = 1
  residual: bool = False
  remat: str = "none"
  dtype: Any = jnp.float32

  @property
  def factor(self) -> int:
    """Pixels per latent pixel."""
    return self.patch * 2 ** (len(self.multiples) - 1)

  def setup(self):
    make = lambda kind, width, out: kind(
      self.dtype, tuple(width * m for m in self.multiples), self.layers, out,
      self.residual, self.remat,
    )  # fmt: skip
    self.encoder = make(Encoder, self.width, 2 * len(self.mean))
    self.decoder = make(Decoder, self.outward or self.width, 3 * self.patch**2)

  def encode(self, x: Array) -> Array:
    return self.encoder(x)

  def decode(self, z: Array) -> Array:
    return self.decoder(z)

  def __call__(self, x: Array) -> Array:
    """Reconstructs a video from the mean of its posterior."""
    return self.decode(self.encode(x)[..., : len(self.mean)])


def to_squares(
  x: Float[Array, "B F H W C"], patch: int
) -> Float[Array, "B F h w D"]:
  """Folds squares of pixels into channels, column by column."""
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h // patch, patch, w // patch, patch, c)
  x = x.transpose(0, 1, 2, 4, 6, 5, 3)
  return x.reshape(*x.shape[:4], -1)


def from_squares(
  x: Float[Array, "B F h w D"], patch: int
) -> Float[Array, "B F H W C"]:
  """Inverse of `to_squares`."""
  b, f, h, w, _ = x.shape
  x = x.reshape(b, f, h, w, -1, patch, patch).transpose(0, 1, 2, 6, 3, 5, 4)
  return x.reshape(b, f, h * patch, w * patch, -1)


_POINT = convert.Form(  # [out, in, 1, ...] <-> [in, out]
  lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None, None]
)
_POINT_3D = convert.Form(_POINT.to_ours, lambda x: x.T[:, :, None, None, None])
_GAMMA = convert.Form(lambda x: x.ravel(), lambda x: x[:, None, None, None])
_GAMMA_2D = convert.Form(_GAMMA.to_ours, lambda x: x[:, None, None])


def _point(ours: str, public: str, form: convert.Form):
  return (
    convert.Rule(f"{ours}/kernel", f"{public}.weight", form),
    convert.Rule(f"{ours}/bias", f"{public}.bias"),
  )


def _res(ours: str, public: str, shortcut: bool) -> tuple[convert.Rule, ...]:
  rules: list[convert.Rule] = []
  for i in (1, 2):
    rules.append(
      convert.Rule(f"{ours}/norm{i}/scale", f"{public}.norm{i}.gamma", _GAMMA)
    )
    rules += convert.conv(f"{ours}/conv{i}", f"{public}.conv{i}")
  if shortcut:
    name = "conv_shortcut"
    rules += _point(f"{ours}/{name}", f"{public}.{name}", _POINT_3D)
  return tuple(rules)


def _ends(side: str) -> list[convert.Rule]:
  """First, middle and last layers of encoder or decoder."""
  ours, public = f"{side}/mid_attention", f"{side}.mid_block.attentions.0"
  return [
    *convert.conv(f"{side}/conv_in", f"{side}.conv_in"),
    *convert.conv(f"{side}/conv_out", f"{side}.conv_out"),
    convert.Rule(f"{side}/norm_out/scale", f"{side}.norm_out.gamma", _GAMMA),
    *_res(f"{side}/mid_0", f"{side}.mid_block.resnets.0", False),
    *_res(f"{side}/mid_1", f"{side}.mid_block.resnets.1", False),
    convert.Rule(f"{ours}/norm/scale", f"{public}.norm.gamma", _GAMMA_2D),
    *_point(f"{ours}/qkv", f"{public}.to_qkv", _POINT),
    *_point(f"{ours}/proj", f"{public}.proj", _POINT),
  ]


def layout(net: VideoAutoencoder) -> tuple[convert.Rule, ...]:
  """The diffusers names (`AutoencoderKLWan`) of the parameters."""
  rules = [*_ends("encoder"), *_ends("decoder")]
  rules += _point("encoder/quant", "quant_conv", _POINT_3D)
  rules += _point("decoder/quant", "post_quant_conv", _POINT_3D)
  last = len(net.multiples) - 1
  # The blocks of the plain encoder form one list.
  places = iter(range((net.layers + 1) * (last + 1)))
  before = 1
  for i, multiple in enumerate(net.multiples):
    scale = f"encoder.down_blocks.{i}"
    plain = lambda: f"encoder.down_blocks.{next(places)}"
    for j in range(net.layers):
      public = f"{scale}.resnets.{j}" if net.residual else plain()
      changes = j == 0 and multiple != before
      rules += _res(f"encoder/down_{i}_{j}", public, changes)
    if i < last:
      public = f"{scale}.downsampler" if net.residual else plain()
      rules += _sample(f"encoder/sample_{i}", public, _IN_TIME[i])
    before = multiple
  before = net.multiples[-1]
  for i, multiple in enumerate(net.multiples[::-1]):
    public = f"decoder.up_blocks.{i}"
    for j in range(net.layers + 1):
      changes = j == 0 and multiple != before
      rules += _res(f"decoder/up_{i}_{j}", f"{public}.resnets.{j}", changes)
    if i < last:
      name = f"{public}.{'upsampler' if net.residual else 'upsamplers.0'}"
      rules += _sample(f"decoder/sample_{i}", name, _IN_TIME[::-1][i])
    before = multiple if net.residual else multiple / 2
  return tuple(rules)


def _sample(ours: str, public: str, in_time: bool) -> list[convert.Rule]:
  rules = [*convert.conv(f"{ours}/space", f"{public}.resample.1")]
  if in_time:
    rules += convert.conv(f"{ours}/time", f"{public}.time_conv")
  return rules


def public_config(net: VideoAutoencoder) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  record = {
    "_class_name": "AutoencoderKLWan",
    "base_dim": net.width,
    "z_dim": len(net.mean),
    "dim_mult": list(net.multiples),
    "num_res_blocks": net.layers,
    "temperal_downsample": list(_IN_TIME),
    "latents_mean": list(net.mean),
    "latents_std": list(net.std),
  }
  if net.residual:
    record |= {
      "decoder_base_dim": net.outward or net.width,
      "is_residual": True,
      "patch_size": net.patch,
      "in_channels": 3 * net.patch**2,
      "out_channels": 3 * net.patch**2,
      "scale_factor_spatial": net.factor,
    }
  return record


def public_fields(net: VideoAutoencoder) -> fields.Fields:
  """Accepted fields of `config.json` for this autoencoder.

  diffusers has a separate class for Qwen-Image's copy of the Wan 2.1 network.
  """
  squares = 3 * net.patch**2
  known = fields.Fields(
    fixed={
      "_class_name": ("AutoencoderKLQwenImage",),
      "attn_scales": ((),),
      "decoder_base_dim": (net.outward or net.width,)
      + (() if net.outward else (None,)),
      "in_channels": (squares,),
      "input_channels": (squares,),
      "is_residual": (net.residual,),
      "out_channels": (squares,),
      "patch_size": (net.patch, *((None,) if net.patch == 1 else ())),
      "scale_factor_spatial": (net.factor,),
      "scale_factor_temporal": (4,),
    },
    unread=("clip_output", "dropout"),
    absent={"is_residual": False},
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> VideoAutoencoder:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(VideoAutoencoder, SIZES, size, fields)


def decode_by_frame(
  net: VideoAutoencoder, params: Params, latents: Float[Array, "B f h w C"]
) -> Float[Array, "B F H W D"]:
  """`decode`, one latent frame at a time.

  At most four frames of the video are processed at once; the frames that later
  ones depend on are cached, so the result equals decoding all at once.
  """

  def one(cache: Any, frame: Array) -> tuple[Any, Array]:
    variables = {"params": params} | ({PAST: cache} if cache else {})
    video, updates = net.apply(
      variables, frame[:, None], method="decode", mutable=[PAST]
    )
    return updates[PAST], video

  cache, first = one(None, latents[:, 0])
  if latents.shape[1] == 1:
    return first
  _, later = jax.lax.scan(one, cache, jnp.moveaxis(latents[:, 1:], 1, 0))
  later = jnp.moveaxis(later, 0, 1)  # [B, f - 1, 4, H, W, D]
  later = later.reshape(later.shape[0], -1, *later.shape[3:])
  return jnp.concatenate([first, later], axis=1)


def from_images(
  coder: Autoencoder,
  params: Params,
  images: Float[ArrayLike, "B H W 3"],
  frames: int,
) -> Float[Array, "B f h w C"]:
  """The extra inputs of Wan's image-to-video networks.

  Channels are four of mask, 1 in the first frame of latents, then the latents
  of a video that is grey after the image. The autoencoder processes one image
  at a time.

  Args:
    coder: a video autoencoder.
    params: its parameters.
    images: in [0, 1].
    frames: f, the number of latent frames.
  """

  def one(image: Array) -> Array:
    grey = jnp.full((4 * (frames - 1), *image.shape), 0.5)
    video = jnp.concatenate([image[None], grey])
    return coder.encode(params, video[None])[0]

  latents = jax.lax.map(one, jnp.asarray(images))
  mask = jnp.zeros((*latents.shape[:-1], 4)).at[:, 0].set(1.0)
  return jnp.concatenate([mask, latents], axis=-1)


def make_autoencoder(
  *,
  size: str = "wan21",
  tile: int = 0,
  overlap: int = 64,
  remat: str = "none",
  dtype: str = "float32",
) -> Autoencoder:
  """A video autoencoder as pure functions.

  `encode` takes videos [B, 1 + 4 n, H, W, 3] in [0, 1] and gives latents
  [B, 1 + n, H / 8, W / 8, C], a sixteenth for "wan22"; `decode` is the
  inverse.

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
  tiles.check(tile, overlap, net.factor)
  patch = net.patch
  outer = tile // patch, overlap // patch
  inner = tile // net.factor, overlap // net.factor
  mean, std = (np.asarray(x, np.float32) for x in (net.mean, net.std))

  def init(key: Array) -> Params:
    pixels = jnp.zeros((1, 1, 2 * net.factor, 2 * net.factor, 3))
    return net.init(key, to_squares(pixels, patch))["params"]

  def encode(
    params: Params, videos: ArrayLike, key: Array | None = None
  ) -> Float[Array, "B f h w C"]:
    pixels = jnp.asarray(videos) * 2 - 1

    def run(x: Array) -> Array:
      y: Any = net.apply({"params": params}, x, method="encode")
      return y.astype(jnp.float32)

    moments = tiles.run(run, to_squares(pixels, patch), outer, inner)
    center, log_variance = jnp.split(moments, 2, -1)
    if key is not None:
      sigma = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
      center = center + sigma * jax.random.normal(key, center.shape)
    return (center - mean) / std

  def decode(params: Params, latents: ArrayLike) -> Float[Array, "B F H W 3"]:
    raw = jnp.asarray(latents) * std + mean

    def run(z: Array) -> Array:
      return decode_by_frame(net, params, z).astype(jnp.float32)

    squares = tiles.run(run, raw, inner, outer)
    return from_squares(squares, patch) * 0.5 + 0.5

  return Autoencoder(
    init=init,
    encode=encode,
    decode=decode,
    factor=net.factor,
    channels=len(net.mean),
    is_video=True,
    sharding_rules=SHARDING_RULES,
    layout=layout(net),
    public_fields=public_fields(net),
  )


def make_picture_autoencoder(
  *,
  size: str = "wan21",
  tile: int = 0,
  overlap: int = 64,
  remat: str = "none",
  dtype: str = "float32",
) -> Autoencoder:
  """`make_autoencoder` on single images, as Qwen-Image uses it.

  `encode` takes [B, H, W, 3] and gives [B, h, w, C] of the same scale.
  """
  video = make_autoencoder(
    size=size, tile=tile, overlap=overlap, remat=remat, dtype=dtype
  )

  def encode(params: Params, images: Array, key: Array | None = None) -> Array:
    return video.encode(params, images[:, None], key)[:, 0]

  def decode(params: Params, latents: Array) -> Array:
    return video.decode(params, latents[:, None])[:, 0]

  return dataclasses.replace(
    video, encode=encode, decode=decode, is_video=False
  )
