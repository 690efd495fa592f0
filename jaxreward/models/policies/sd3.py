"""Stable Diffusion 3 and 3.5: MMDiT with learned positions, two text
embeddings.

Esser et al. 2024 (https://arxiv.org/abs/2403.03206). Latents are those of the
16-channel autoencoder; the network predicts the velocity noise - data. Prompts
are outputs of the text encoders (see `make_policy`); all zeros mean no prompt,
as in training, where encoder outputs were dropped to zero.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError, require_counts
from jaxreward.models import blocks, convert, fields, sequence
from jaxreward.models.policies import latent_policy, mmdit
from jaxreward.types import Array, Cond, Policy

_MEDIUM = dict(depth=24, heads=24, position_side=192)
SIZES: dict[str, dict[str, Any]] = {
  "sd3_medium": _MEDIUM,
  "sd35_medium": dict(
    _MEDIUM, position_side=384, dual_layers=13, qk_norm=True
  ),
  "sd35_large": dict(depth=38, heads=38, position_side=192, qk_norm=True),
  "tiny": dict(
    depth=4, heads=2, head_width=16, position_side=12, base_side=8,
    channels=4, text_width=24, pooled_width=20, dual_layers=2, qk_norm=True,
  ),
}  # fmt: skip

SHARDING_RULES = (
  (r"^position$", ("tensor", "fsdp")),
  (r"^patch_in/kernel$", (None, "fsdp")),
  (r"^(text_in|(time|pooled)/in)/kernel$", ("fsdp", "tensor")),
  (r"^(time|pooled)/out/kernel$", ("tensor", "fsdp")),
  (r"^final_modulation/kernel$", ("fsdp", "tensor")),
  (r"^patch_out/kernel$", ("fsdp",)),
  *mmdit.sharding_rules("dual|joint", "last"),
)


class SD3(nn.Module):
  """Velocity of latents; call with method="encode" or as a function.

  Attributes:
    depth: joint blocks; the last one drops the text.
    heads: attention heads.
    head_width: features of a head.
    position_side: positions per side of the stored table; its middle is used.
    base_side: positions per side for which the table was made.
    patch: latent pixels per side of a token.
    channels: of the latents.
    text_width: features of the words.
    pooled_width: features of the pooled prompt.
    dual_layers: number of first blocks with a second self-attention of pixels.
    qk_norm: RMS norm of queries and keys.
  """

  depth: int
  heads: int
  position_side: int
  head_width: int = 64
  base_side: int = 64
  patch: int = 2
  channels: int = 16
  text_width: int = 4096
  pooled_width: int = 2048
  dual_layers: int = 0
  qk_norm: bool = False
  remat: str = "none"
  unroll: int = 1
  dtype: Any = jnp.float32
  attention: str = "plain"

  @property
  def width(self) -> int:
    return self.heads * self.head_width

  def setup(self):
    d, side = self.width, self.position_side
    dense = lambda features: blocks.dense(features, None, self.dtype)
    self.position = self.param(
      "position", lambda key: _waves(d, side, self.base_side)
    )
    self.patch_in, self.text_in = dense(d), dense(d)
    self.time = mmdit.Mlp(d, self.dtype)
    self.pooled = mmdit.Mlp(d, self.dtype)
    sizes = (d, self.heads, self.dtype, self.qk_norm, self.attention)
    runs = {"dual": self.dual_layers, "joint": self.plain_layers}
    self.runs = [
      mmdit.stacked(mmdit.JointBlock, n, self.remat, self.unroll)(
        *sizes, dual=name == "dual", name=name
      )
      for name, n in runs.items()
      if n
    ]
    self.last = blocks.remat(mmdit.JointBlock, self.remat)(*sizes, last=True)
    self.final_modulation = dense(2 * d)
    self.patch_out = dense(self.patch**2 * self.channels)

  @property
  def plain_layers(self) -> int:
    return self.depth - 1 - self.dual_layers

  def encode(self, prompts: Cond) -> Cond:
    """{"words" [P, L, text_width], "pooled" [P, pooled_width]} -> the same."""
    return {
      "words": self.text_in(prompts["words"]),
      "pooled": self.pooled(prompts["pooled"]),
    }

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    _, height, width, _ = x.shape
    y = self.patch_in(mmdit.patches(x, self.patch))
    y = y + self.places(height // self.patch, width // self.patch)
    signal = nn.silu(self.time(mmdit.wave_features(t)) + cond["pooled"])
    carry = y, cond["words"].astype(self.dtype)
    for block in (*self.runs, self.last):
      carry, _ = block(carry, signal, None, None)
    final = sequence.rows(self.final_modulation(signal))
    scale, shift = jnp.split(final[:, None], 2, -1)
    y = self.patch_out(mmdit.modulate(carry[0], shift, scale))
    y = y.astype(jnp.float32)
    return mmdit.from_patches(y, self.patch, height, width)

  def places(self, rows: int, columns: int) -> Array:
    """The middle of the position table, [1, rows * columns, D]; not trained."""
    side, d = self.position_side, self.width
    table = jax.lax.stop_gradient(self.position).reshape(side, side, d)
    top, left = (side - rows) // 2, (side - columns) // 2
    window = table[top : top + rows, left : left + columns]
    return window.reshape(1, -1, d).astype(self.dtype)

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    return self(x, t, self.encode(prompts))


def _waves(width: int, side: int, base: int) -> Array:
  """Sines and cosines of column and row, float32 [side * side, width]."""
  quarter = width // 4
  place = np.arange(side) * (base / side)
  angle = np.outer(place, 10000.0 ** -(np.arange(quarter) / quarter))
  wave = np.concatenate([np.sin(angle), np.cos(angle)], -1)
  wave = jnp.asarray(wave, jnp.float32)
  columns, rows = jnp.tile(wave, (side, 1)), jnp.repeat(wave, side, 0)
  return jnp.concatenate([columns, rows], -1)


def layout(net: SD3) -> tuple[convert.Rule, ...]:
  """The diffusers names (`SD3Transformer2DModel`) of the parameters."""
  middle = range(net.dual_layers, net.depth - 1)
  runs = {"dual": range(net.dual_layers), "joint": middle}
  rules = [
    convert.Rule(
      "patch_in/kernel",
      "pos_embed.proj.weight",
      mmdit.patch_form(net.patch),
    ),
    convert.Rule("patch_in/bias", "pos_embed.proj.bias"),
    convert.Rule(
      "position",
      "pos_embed.pos_embed",
      convert.Form(lambda x: x[0], lambda x: x[None]),
    ),
    *convert.linear("text_in", "context_embedder"),
    *convert.linear("final_modulation", "norm_out.linear"),
    *convert.linear("patch_out", "proj_out"),
  ]
  for ours, public in (("time", "timestep"), ("pooled", "text")):
    rules += mmdit.mlp_layout(ours, f"time_text_embed.{public}_embedder")
  for name, layers in runs.items():
    if layers:
      rules += mmdit.block_layout(
        name, "transformer_blocks.{}", _names(net, name), layers
      )
  final = f"transformer_blocks.{net.depth - 1}"
  rules += mmdit.block_layout("last", final, _names(net, "last"), None)
  return tuple(rules)


def _names(net: SD3, run: str) -> dict[str, str]:
  """Public name of each part of a block."""
  names = mmdit.attention_names("attn", qk_norm=net.qk_norm) | {
    "image_modulation": "norm1.linear",
    "text_modulation": "norm1_context.linear",
    "image_up": "ff.net.0.proj",
    "image_down": "ff.net.2",
    "text_up": "ff_context.net.0.proj",
    "text_down": "ff_context.net.2",
  }
  if run == "last":
    for part in ("text_out", "text_up", "text_down"):
      del names[part]
  if run == "dual":
    names |= {f"own_{part}": f"attn2.to_{part}" for part in "qkv"}
    names["own_out"] = "attn2.to_out.0"
    for part in "qk" if net.qk_norm else "":
      names[f"own_{part}norm"] = f"attn2.norm_{part}"
  return names


def public_config(net: SD3) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  return {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": net.base_side * net.patch,
    "patch_size": net.patch,
    "in_channels": net.channels,
    "out_channels": net.channels,
    "num_layers": net.depth,
    "attention_head_dim": net.head_width,
    "num_attention_heads": net.heads,
    "joint_attention_dim": net.text_width,
    "caption_projection_dim": net.width,
    "pooled_projection_dim": net.pooled_width,
    "pos_embed_max_size": net.position_side,
    "dual_attention_layers": list(range(net.dual_layers)),
    "qk_norm": "rms_norm" if net.qk_norm else None,
  }


def public_fields(net: SD3) -> fields.Fields:
  """Accepted fields of `config.json` for this network.

  The position table is stored, so `sample_size` is only a default.
  """
  known = fields.Fields(
    unread=("sample_size",), absent={"dual_attention_layers": ()}
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> SD3:
  """The network of a named size, with overrides of its fields.

  Raises:
    UserError: an unknown size, or more dual blocks than blocks.
  """
  net = latent_policy.make_net(SD3, SIZES, size, fields)
  if not 0 <= net.dual_layers < net.depth:
    raise UserError(
      f"dual_layers={net.dual_layers} is not less than depth={net.depth}"
    )
  return net


def make_policy(
  *,
  size: str = "sd3_medium",
  latent_side: int = 64,
  words: int = 333,
  remat: str = "full",
  unroll: int = 1,
  dtype: str = "bfloat16",
  attention: str = "plain",
  param_dtype: str = "float32",
) -> Policy:
  """Stable Diffusion 3 as pure functions.

  `encode` takes {"words" [P, L, 4096], "pooled" [P, 2048]}: the states of the
  two CLIP encoders side by side, padded with zeros to 4096 and followed by
  those of T5; and the two pooled vectors side by side.

  Args:
    size: one of `SIZES`.
    latent_side: latent pixels per side, an eighth of the image's.
    words: L of the prompts passed to `init`; no parameter depends on it.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scans.
    dtype: of matrix products.
    attention: "plain", "flash" or "fused" (TPU), "cudnn" (GPU, 16 bits), or
      "auto" (chosen for the platform).
    param_dtype: of the parameters that `init` creates.

  Raises:
    UserError: an unknown size, or a side that is not a multiple of the patch or
      exceeds the position table.
  """
  net = make_net(
    size,
    remat=remat,
    unroll=unroll,
    dtype=jnp.dtype(dtype),
    attention=attention,
  )
  require_counts("config.model.", latent_side=latent_side, words=words)
  if latent_side % net.patch or latent_side // net.patch > net.position_side:
    raise UserError(
      f"model.latent_side={latent_side} is not a multiple of {net.patch} up to"
      f" {net.patch * net.position_side}"
    )
  prompts = {
    "words": jax.ShapeDtypeStruct((1, words, net.text_width), jnp.float32),
    "pooled": jax.ShapeDtypeStruct((1, net.pooled_width), jnp.float32),
  }
  return latent_policy.make(
    net,
    prompts,
    latent_shape=(latent_side, latent_side, net.channels),
    param_dtype=jnp.dtype(param_dtype),
    sharding_rules=SHARDING_RULES,
    layout=layout(net),
    public_config=public_config(net),
    public_fields=public_fields(net),
  )
