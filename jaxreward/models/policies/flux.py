"""FLUX.1: two-stream blocks, then one-stream blocks over text and pixels.

Black Forest Labs 2024 (dev, schnell) and 2025 (Kontext,
https://arxiv.org/abs/2506.15742). Latents are those of the 16-channel
autoencoder, read as 2 x 2 squares; positions are rotary. An image to edit
(Kontext) is passed as latents with the prompt: its tokens follow those of the
sample, one step further on the first rotary axis.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError, is_finite, require_counts
from jaxreward.models import blocks, convert, fields, sequence
from jaxreward.models.policies import latent_policy, mmdit
from jaxreward.types import Array, Cond, Policy

_DEV = dict(double=19, single=38, heads=24)
SIZES: dict[str, dict[str, Any]] = {
  "flux_dev": _DEV,
  "flux_kontext": _DEV,
  "flux_schnell": dict(_DEV, guided=False),
  "tiny": dict(
    double=2, single=2, heads=2, axes=(4, 6, 6), channels=4, text_width=24,
    pooled_width=20,
  ),
}  # fmt: skip

SHARDING_RULES = (
  (r"^patch_in/kernel$", (None, "fsdp")),
  (r"^(text_in|(time|pooled|guidance)/in)/kernel$", ("fsdp", "tensor")),
  (r"^(time|pooled|guidance)/out/kernel$", ("tensor", "fsdp")),
  (r"^final_modulation/kernel$", ("fsdp", "tensor")),
  (r"^patch_out/kernel$", ("fsdp",)),
  *mmdit.sharding_rules("double|single"),
)
_PATCH = 2
_GUIDANCE = 3.5  # the default of FLUX.1-dev


class SingleBlock(mmdit.Stream):
  """Parallel attention and MLP over text and pixels as one stream."""

  @nn.compact
  def __call__(
    self, x: Array, signal: Any, rotary: mmdit.Rotary, mask: Any
  ) -> tuple[Array, None]:
    shift, scale, gate = self.modulation(signal, "all", 3)
    y = mmdit.modulate(x, shift, scale)
    y = jnp.concatenate(self.parallel(y, rotary, mask), -1)
    return x + gate * self.narrow(y, "all_out"), None

  def parallel(
    self, x: Array, rotary: mmdit.Rotary, mask: Any
  ) -> tuple[Array, Array]:
    """(attended values, hidden features of the MLP)."""
    (attended,) = self.attend_all([(x, "all")], rotary, mask)
    return attended, nn.gelu(self.dense(4 * self.width, "all_up")(x))


class Flux(nn.Module):
  """Velocity of latents; call with method="encode" or as a function.

  Attributes:
    double: two-stream blocks.
    single: one-stream blocks.
    heads: attention heads.
    axes: features of a head that each rotary axis (image, row, column) rotates;
      their sum is the head width.
    channels: of the latents.
    text_width: features of the words.
    pooled_width: features of the pooled prompt.
    guided: whether the network takes a distilled guidance scale.
  """

  double: int
  single: int
  heads: int
  axes: tuple[int, int, int] = (16, 56, 56)
  channels: int = 16
  text_width: int = 4096
  pooled_width: int = 768
  guided: bool = True
  guidance: float = 3.5
  remat: str = "none"
  unroll: int = 1
  dtype: Any = jnp.float32
  attention: str = "plain"

  @property
  def width(self) -> int:
    return self.heads * sum(self.axes)

  def setup(self):
    d = self.width
    dense = lambda features: blocks.dense(features, None, self.dtype)
    self.patch_in, self.text_in = dense(d), dense(d)
    self.time = mmdit.Mlp(d, self.dtype)
    self.pooled = mmdit.Mlp(d, self.dtype)
    if self.guided:
      self.guidance_in = mmdit.Mlp(d, self.dtype, name="guidance")
    stack = lambda block, depth, name: mmdit.stacked(
      block, depth, self.remat, self.unroll
    )(d, self.heads, self.dtype, attention=self.attention, name=name)
    self.double_blocks = stack(mmdit.JointBlock, self.double, "double")
    self.single_blocks = stack(SingleBlock, self.single, "single")
    self.final_modulation = dense(2 * d)
    self.patch_out = dense(_PATCH**2 * self.channels)

  def encode(self, prompts: Cond) -> Cond:
    """Projects words and pooled prompt to the network's width; images pass
    through unchanged."""
    return dict(
      prompts,
      words=self.text_in(prompts["words"]),
      pooled=self.pooled(prompts["pooled"]),
    )

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    _, height, width, _ = x.shape
    text = cond["words"].astype(self.dtype)
    images = [x, cond["picture"]] if "picture" in cond else [x]
    squares = [mmdit.patches(p, _PATCH, by_channel=True) for p in images]
    y = self.patch_in(jnp.concatenate(squares, axis=1))
    rotary = mmdit.rotary_angles(
      _places(text.shape[1], [(p.shape[1], p.shape[2]) for p in images]),
      self.axes,
    )
    network_t = mmdit.rounded_time(t, self.dtype)
    signal = self.time(mmdit.wave_features(network_t)) + cond["pooled"]
    if self.guided:
      scale = mmdit.rounded(jnp.full_like(t, self.guidance), self.dtype)
      signal = signal + self.guidance_in(mmdit.wave_features(scale))
    signal = nn.silu(signal)
    (y, text), _ = self.double_blocks((y, text), signal, rotary, None)
    y = jnp.concatenate([text, y], axis=1)
    y, _ = self.single_blocks(y, signal, rotary, None)
    start = text.shape[1]
    y = y[:, start : start + squares[0].shape[1]]
    final = sequence.rows(self.final_modulation(signal))
    scale, shift = jnp.split(final[:, None], 2, -1)
    y = self.patch_out(mmdit.modulate(y, shift, scale)).astype(jnp.float32)
    return mmdit.from_patches(y, _PATCH, height, width, by_channel=True)

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    return self(x, t, self.encode(prompts))


def _places(text_tokens: int, sizes: list[tuple[int, int]]) -> np.ndarray:
  """(image, row, column) of every token, [N, 3]; text tokens are at 0."""
  grids = [
    np.indices((1, height // _PATCH, width // _PATCH)).reshape(3, -1).T
    + np.array([i, 0, 0])
    for i, (height, width) in enumerate(sizes)
  ]
  return np.concatenate([np.zeros((text_tokens, 3)), *grids])


def layout(net: Flux) -> tuple[convert.Rule, ...]:
  """The diffusers names (`FluxTransformer2DModel`) of the parameters."""
  rules = [
    *convert.linear("patch_in", "x_embedder"),
    *convert.linear("text_in", "context_embedder"),
    *convert.linear("final_modulation", "norm_out.linear"),
    *convert.linear("patch_out", "proj_out"),
  ]
  vectors = {"time": "timestep", "pooled": "text"}
  if net.guided:
    vectors["guidance"] = "guidance"
  for ours, public in vectors.items():
    rules += mmdit.mlp_layout(ours, f"time_text_embed.{public}_embedder")
  double = mmdit.attention_names("attn") | {
    "image_modulation": "norm1.linear",
    "text_modulation": "norm1_context.linear",
    "image_up": "ff.net.0.proj",
    "image_down": "ff.net.2",
    "text_up": "ff_context.net.0.proj",
    "text_down": "ff_context.net.2",
  }
  single = {"all_modulation": "norm.linear", "all_up": "proj_mlp"}
  single |= {"all_out": "proj_out"}
  single |= {f"all_{part}": f"attn.to_{part}" for part in "qkv"}
  single |= {f"all_{part}norm": f"attn.norm_{part}" for part in "qk"}
  for ours, public, names, depth in (
    ("double", "transformer_blocks.{}", double, net.double),
    ("single", "single_transformer_blocks.{}", single, net.single),
  ):
    rules += mmdit.block_layout(ours, public, names, range(depth))
  return tuple(rules)


def public_config(net: Flux) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  return {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": net.channels * _PATCH**2,
    "num_layers": net.double,
    "num_single_layers": net.single,
    "attention_head_dim": sum(net.axes),
    "num_attention_heads": net.heads,
    "joint_attention_dim": net.text_width,
    "pooled_projection_dim": net.pooled_width,
    "guidance_embeds": net.guided,
    "axes_dims_rope": list(net.axes),
  }


def public_fields(net: Flux) -> fields.Fields:
  """Accepted fields of `config.json` for this network."""
  known = fields.Fields(
    fixed={"out_channels": (None, net.channels * _PATCH**2)},
    absent={"guidance_embeds": False},
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> Flux:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(Flux, SIZES, size, fields)


def make_policy(
  *,
  size: str = "flux_dev",
  latent_side: int = 64,
  words: int = 512,
  guidance: float = _GUIDANCE,
  remat: str = "full",
  unroll: int = 1,
  dtype: str = "bfloat16",
  attention: str = "plain",
  takes_source: bool = False,
  param_dtype: str = "float32",
) -> Policy:
  """FLUX.1 as pure functions.

  `encode` takes {"words" [P, L, 4096], "pooled" [P, 768]}, the states of T5 and
  the pooled vector of CLIP, and for Kontext "picture" [P, H, W, 16], latents of
  the image to edit.

  Args:
    size: one of `SIZES`.
    latent_side: latent pixels per side, an eighth of the image's.
    words: L of the prompts passed to `init`; no parameter depends on it.
    guidance: scale of the distilled guidance; schnell ignores it.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scans.
    dtype: of matrix products.
    attention: "plain", "flash" or "fused" (TPU), "cudnn" (GPU, 16 bits), or
      "auto" (chosen for the platform).
    takes_source: whether prompts include an image to edit.
    param_dtype: of the parameters that `init` creates.

  Raises:
    UserError: an unknown size, or an odd side.
  """
  net = make_net(
    size,
    guidance=guidance,
    remat=remat,
    unroll=unroll,
    dtype=jnp.dtype(dtype),
    attention=attention,
  )
  if not is_finite(guidance):
    raise UserError(
      f"config.model.guidance={guidance}: expected a finite number"
    )
  if not net.guided and guidance != _GUIDANCE:
    raise UserError(
      f'model.guidance={guidance}: model.size="{size}" takes no distilled'
      " guidance; leave it out"
    )
  require_counts("config.model.", latent_side=latent_side, words=words)
  if latent_side % _PATCH:
    raise UserError(f"model.latent_side={latent_side} is odd")
  prompts = {
    "words": jax.ShapeDtypeStruct((1, words, net.text_width), jnp.float32),
    "pooled": jax.ShapeDtypeStruct((1, net.pooled_width), jnp.float32),
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
