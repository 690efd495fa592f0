"""The autoencoder of FLUX.2: that of FLUX.1 with 32 channels, packed and whitened.

Black Forest Labs 2025 (https://github.com/black-forest-labs/flux2). A pixel of the
latents is a square of 2 x 2 pixels of 32 channels; each of the 128 features has its
own mean and variance, stored as batch-norm statistics.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models import convert, fields
from jaxreward.models.autoencoders import vae
from jaxreward.models.policies import latent_policy, mmdit
from jaxreward.types import Array, Params

SIZES: dict[str, dict[str, Any]] = {
  "flux2": dict(channels=32),
  "tiny": dict(widths=(8, 16), layers=1, groups=4, channels=4),
}
_PACKING = 2
_EPS = 1e-4


class AutoencoderKLFlux2(vae.AutoencoderKL):
  """Encoder and decoder, and the statistics of packed latents."""

  scaling: float = 1.0
  shift: float = 0.0

  def setup(self):
    super().setup()
    conv = lambda features: nn.Conv(features, (1, 1), dtype=self.dtype)
    self.quant, self.post_quant = conv(2 * self.channels), conv(self.channels)
    width = (self.channels * _PACKING**2,)
    self.mean = self.param("mean", nn.initializers.zeros, width)
    self.variance = self.param("variance", nn.initializers.ones, width)

  def encode(self, x: Array) -> Array:
    return self.quant(self.encoder(x))

  def decode(self, z: Array) -> Array:
    return self.decoder(self.post_quant(z))


def pack(x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
  """Packs squares of 2 x 2 pixels into one, its features channel first."""
  b, h, w, _ = x.shape
  tokens = mmdit.patches(x, _PACKING, by_channel=True)
  return jnp.reshape(tokens, (b, h // _PACKING, w // _PACKING, -1))


def unpack(x: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
  """Inverse of `pack`."""
  b, h, w, d = x.shape
  return mmdit.from_patches(
    x.reshape(b, h * w, d), _PACKING, h * _PACKING, w * _PACKING,
    by_channel=True,
  )  # fmt: skip


def layout(net: AutoencoderKLFlux2) -> tuple[convert.Rule, ...]:
  """The diffusers names (`AutoencoderKLFlux2`) of the parameters."""
  return (
    *vae.layout(net),
    *convert.conv("quant", "quant_conv"),
    *convert.conv("post_quant", "post_quant_conv"),
    convert.Rule("mean", "bn.running_mean"),
    convert.Rule("variance", "bn.running_var"),
    convert.Rule("", "bn.num_batches_tracked"),
  )


def public_config(net: AutoencoderKLFlux2) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  config = vae.public_config(net) | {
    "_class_name": "AutoencoderKLFlux2",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "batch_norm_eps": _EPS,
    "patch_size": [_PACKING, _PACKING],
  }
  return {
    name: value
    for name, value in config.items()
    if name not in ("scaling_factor", "shift_factor")
  }


def public_fields(net: AutoencoderKLFlux2) -> fields.Fields:
  """Accepted fields of `config.json` for this autoencoder."""
  known = fields.Fields(
    fixed={
      "act_fn": ("silu",),
      "decoder_block_out_channels": (None, list(net.widths)),
      "in_channels": (3,),
      "mid_block_add_attention": (True,),
      "out_channels": (3,),
    },
    unread=("batch_norm_momentum", "force_upcast", "sample_size"),
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> AutoencoderKLFlux2:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(AutoencoderKLFlux2, SIZES, size, fields)


def make_autoencoder(
  *,
  size: str = "flux2",
  tile: int = 0,
  overlap: int = 64,
  remat: str = "none",
  dtype: str = "float32",
) -> vae.Autoencoder:
  """An autoencoder as pure functions.

  Args:
    size: one of `SIZES`.
    tile: see `vae.make_autoencoder`.
    overlap: see `vae.make_autoencoder`.
    remat: "none" or "full" (store only the inputs of residual blocks).
    dtype: of products and convolutions.

  Raises:
    UserError: an unknown size, or tiles that do not fit the latents.
  """
  net = make_net(size, remat=remat, dtype=jnp.dtype(dtype))

  def to_latents(params: Params, raw: Array) -> Array:
    std = jnp.sqrt(params["variance"].astype(jnp.float32) + _EPS)
    return (pack(raw) - params["mean"]) / std

  def to_raw(params: Params, latents: Array) -> Array:
    std = jnp.sqrt(params["variance"].astype(jnp.float32) + _EPS)
    return unpack(latents * std + params["mean"])

  return vae.of_net(
    net,
    tile,
    overlap,
    to_latents,
    to_raw,
    packing=_PACKING,
    layout=layout(net),
    public_fields=public_fields(net),
  )
