"""FLUX.2 klein: the blocks of FLUX.1 with shared modulation and gated MLPs.

Black Forest Labs 2025 and 2026 (https://github.com/black-forest-labs/flux2).
Latents are those of the autoencoder `flux2`, whose pixels are already 2 x 2
squares; prompts are states of three layers of Qwen3, padding included.
Positions have a fourth axis, which counts the text. Images to edit are passed
as latents with the prompt, each ten steps further on the first axis. FLUX.2
dev, with a guidance input and another text encoder, is not supported.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import require_counts
from jaxreward.models import blocks, convert, fields, sequence
from jaxreward.models.policies import flux, latent_policy, mmdit
from jaxreward.types import Array, Cond, Policy

SIZES: dict[str, dict[str, Any]] = {
  "klein_4b": dict(double=5, single=20, heads=24, text_width=7680),
  "klein_9b": dict(double=8, single=24, heads=32, text_width=12288),
  "tiny": dict(
    double=2, single=2, heads=2, axes=(4, 4, 4, 4), channels=16, text_width=24
  ),
}

SHARDING_RULES = (
  (r"^patch_in/kernel$", (None, "fsdp")),
  (r"^(text_in|time/in)/kernel$", ("fsdp", "tensor")),
  (r"^time/out/kernel$", ("tensor", "fsdp")),
  (r"^(image|text|all|final)_modulation/kernel$", ("fsdp", "tensor")),
  (r"^patch_out/kernel$", ("fsdp",)),
  *mmdit.sharding_rules("double|single"),
)
_THETA = 2000.0
_MLP = 3  # hidden features of an MLP over the network's width
_APART = 10  # positions between images on the first axis


class _Stream(mmdit.Stream):
  """Products without bias, and modulation that all blocks share.

  The signal is {"image", "text", "all"}, [B, parts * width] each.
  """

  def dense(self, features: int, name: str):
    return blocks.dense(features, name, self.dtype, bias=False)

  def modulation(self, signal: Any, prefix: str, parts: int) -> list[Array]:
    return jnp.split(signal[prefix][:, None], parts, axis=-1)

  def feed_forward(self, x: Array, prefix: str) -> Array:
    x = self.dense(2 * _MLP * self.width, f"{prefix}_up")(x)
    return self.narrow(_gated(x), f"{prefix}_down")


def _gated(x: Array) -> Array:
  gate, x = jnp.split(x, 2, -1)
  return nn.silu(gate) * x


class DoubleBlock(_Stream, mmdit.JointBlock):
  """Text and pixels attend to both; each stream has its own weights."""


class SingleBlock(_Stream, flux.SingleBlock):
  """Parallel attention and MLP, which share their first and last product."""

  def products(self, x: Array, prefix: str) -> tuple[Array, Array, Array]:
    del prefix  # the products are already computed
    q, k, v = jnp.split(x, 3, -1)
    return q, k, v

  def parallel(
    self, x: Array, rotary: mmdit.Rotary, mask: Any
  ) -> tuple[Array, Array]:
    wide = self.dense((3 + 2 * _MLP) * self.width, "all_qkv_up")(x)
    qkv, hidden = jnp.split(wide, [3 * self.width], -1)
    (attended,) = self.attend_all([(qkv, "all")], rotary, mask)
    return attended, _gated(hidden)


class Flux2(nn.Module):
  """Velocity of latents; call with method="encode" or as a function.

  Attributes:
    double: two-stream blocks.
    single: one-stream blocks.
    heads: attention heads.
    axes: features of a head that each rotary axis (image, row, column, text)
      rotates; their sum is the head width.
    channels: of the latents.
    text_width: features of the words.
  """

  double: int
  single: int
  heads: int
  axes: tuple[int, int, int, int] = (32, 32, 32, 32)
  channels: int = 128
  text_width: int = 7680
  remat: str = "none"
  unroll: int = 1
  dtype: Any = jnp.float32
  attention: str = "plain"

  @property
  def width(self) -> int:
    return self.heads * sum(self.axes)

  def setup(self):
    d = self.width
    dense = lambda features: blocks.dense(
      features, None, self.dtype, bias=False
    )
    self.patch_in, self.text_in = dense(d), dense(d)
    self.time = mmdit.Mlp(d, self.dtype, bias=False)
    self.image_modulation, self.text_modulation = dense(6 * d), dense(6 * d)
    self.all_modulation, self.final_modulation = dense(3 * d), dense(2 * d)
    stack = lambda block, depth, name: mmdit.stacked(
      block, depth, self.remat, self.unroll
    )(d, self.heads, self.dtype, attention=self.attention, name=name)
    self.double_blocks = stack(DoubleBlock, self.double, "double")
    self.single_blocks = stack(SingleBlock, self.single, "single")
    self.patch_out = dense(self.channels)

  def encode(self, prompts: Cond) -> Cond:
    """Projects words to the network's width; images pass through unchanged."""
    return dict(prompts, words=self.text_in(prompts["words"]))

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    text = cond["words"].astype(self.dtype)
    images = [x, *jax.tree.leaves(cond.get("picture"))]
    pixels = [p.reshape(len(p), -1, p.shape[-1]) for p in images]
    y = self.patch_in(jnp.concatenate(pixels, axis=1))
    sizes = [(p.shape[1], p.shape[2]) for p in images]
    places = _places(text.shape[1], sizes)
    rotary = mmdit.rotary_angles(places, self.axes, _THETA)
    network_t = mmdit.rounded_time(t, self.dtype)
    signal = nn.silu(self.time(mmdit.wave_features(network_t)))
    signals = {
      "image": self.image_modulation(signal),
      "text": self.text_modulation(signal),
      "all": self.all_modulation(signal),
    }
    signals = jax.tree.map(sequence.rows, signals)
    (y, text), _ = self.double_blocks((y, text), signals, rotary, None)
    y = jnp.concatenate([text, y], axis=1)
    y, _ = self.single_blocks(y, signals, rotary, None)
    start = text.shape[1]
    y = y[:, start : start + pixels[0].shape[1]]
    final = sequence.rows(self.final_modulation(signal))
    scale, shift = jnp.split(final[:, None], 2, -1)
    y = self.patch_out(mmdit.modulate(y, shift, scale)).astype(jnp.float32)
    return y.reshape(x.shape)

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    return self(x, t, self.encode(prompts))


def _places(text_tokens: int, sizes: list[tuple[int, int]]) -> np.ndarray:
  """(image, row, column, word) of every token, [N, 4]."""
  text = np.arange(text_tokens)[:, None] * np.array([0, 0, 0, 1])
  grids = [
    np.indices((1, *size, 1)).reshape(4, -1).T + np.array([_APART * i, 0, 0, 0])
    for i, size in enumerate(sizes)
  ]
  return np.concatenate([text, *grids])


def layout(net: Flux2) -> tuple[convert.Rule, ...]:
  """The diffusers names (`Flux2Transformer2DModel`) of the parameters."""
  rules: list[convert.Rule] = []
  for ours, public in {
    "patch_in": "x_embedder",
    "text_in": "context_embedder",
    "time/in": "time_guidance_embed.timestep_embedder.linear_1",
    "time/out": "time_guidance_embed.timestep_embedder.linear_2",
    "image_modulation": "double_stream_modulation_img.linear",
    "text_modulation": "double_stream_modulation_txt.linear",
    "all_modulation": "single_stream_modulation.linear",
    "final_modulation": "norm_out.linear",
    "patch_out": "proj_out",
  }.items():
    rules += convert.linear(ours, public, bias=False)
  double = mmdit.attention_names("attn") | {
    "image_up": "ff.linear_in",
    "image_down": "ff.linear_out",
    "text_up": "ff_context.linear_in",
    "text_down": "ff_context.linear_out",
  }
  single = {"all_qkv_up": "attn.to_qkv_mlp_proj", "all_out": "attn.to_out"}
  single |= {f"all_{part}norm": f"attn.norm_{part}" for part in "qk"}
  for ours, public, names, depth in (
    ("double", "transformer_blocks.{}", double, net.double),
    ("single", "single_transformer_blocks.{}", single, net.single),
  ):
    rules += mmdit.block_layout(ours, public, names, range(depth), bias=False)
  return tuple(rules)


def public_config(net: Flux2) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  return {
    "_class_name": "Flux2Transformer2DModel",
    "patch_size": 1,
    "in_channels": net.channels,
    "num_layers": net.double,
    "num_single_layers": net.single,
    "attention_head_dim": sum(net.axes),
    "num_attention_heads": net.heads,
    "joint_attention_dim": net.text_width,
    "timestep_guidance_channels": 256,
    "mlp_ratio": float(_MLP),
    "axes_dims_rope": list(net.axes),
    "rope_theta": int(_THETA),
    "eps": 1e-6,
    "guidance_embeds": False,
  }


def public_fields(net: Flux2) -> fields.Fields:
  """Accepted fields of `config.json` for this network.

  Excludes FLUX.2 dev, which takes a guidance scale (`guidance_embeds`).
  """
  known = fields.Fields(
    fixed={"out_channels": (None, net.channels)},
    absent={"guidance_embeds": True},
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> Flux2:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(Flux2, SIZES, size, fields)


def make_policy(
  *,
  size: str = "klein_4b",
  latent_side: int = 32,
  words: int = 512,
  remat: str = "full",
  unroll: int = 1,
  dtype: str = "bfloat16",
  attention: str = "plain",
  takes_source: bool = False,
  param_dtype: str = "float32",
) -> Policy:
  """FLUX.2 klein as pure functions.

  `encode` takes {"words" [P, L, 7680 or 12288]}, states of Qwen3, and for edits
  "picture" [P, H, W, 128], latents of an image; or a tuple of several, each of its
  own size.

  Args:
    size: one of `SIZES`; the base and the distilled weights have the same.
    latent_side: latent pixels per side, a sixteenth of the image's.
    words: L of the prompts passed to `init`; no parameter depends on it.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scans.
    dtype: of matrix products.
    attention: "plain", "flash" or "fused" (TPU), "cudnn" (GPU, 16 bits), or
      "auto" (chosen for the platform).
    takes_source: whether prompts include an image to edit.
    param_dtype: of the parameters that `init` creates.

  Raises:
    UserError: an unknown size.
  """
  net = make_net(
    size,
    remat=remat,
    unroll=unroll,
    dtype=jnp.dtype(dtype),
    attention=attention,
  )
  require_counts("config.model.", latent_side=latent_side, words=words)
  prompts = {
    "words": jax.ShapeDtypeStruct((1, words, net.text_width), jnp.float32)
  }
  shape = (latent_side, latent_side, net.channels)
  source = {"picture": jax.ShapeDtypeStruct((1, *shape), jnp.float32)}
  return latent_policy.make(
    net,
    prompts,
    latent_shape=shape,
    param_dtype=jnp.dtype(param_dtype),
    sharding_rules=SHARDING_RULES,
    layout=layout(net),
    pictures=source if takes_source else None,
    public_config=public_config(net),
    public_fields=public_fields(net),
  )
