"""Qwen-Image: two-stream blocks throughout, prompts encoded by Qwen2.5-VL.

Qwen team 2025 (https://arxiv.org/abs/2508.02324). Latents are read as 2 x 2
squares; positions are rotary and count from the middle of the image, and text
positions follow beyond its edge on every axis. Images to edit (Qwen-Image-Edit)
are passed as latents with the prompt, each one step further on the first axis.
Guidance preserves the norm of every token's velocity, as the public pipelines
do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward import numerics
from jaxreward.errors import UserError, require_counts
from jaxreward.models import blocks, convert, fields, sequence
from jaxreward.models.policies import latent_policy, mmdit
from jaxreward.types import Array, Cond, Policy

_FULL = dict(depth=60, heads=24)
_TINY = dict(depth=3, heads=2, axes=(4, 6, 6), channels=4, text_width=24)
SIZES: dict[str, dict[str, Any]] = {
  "qwen_image": _FULL,
  "qwen_image_edit": _FULL,
  "qwen_image_edit_2511": dict(_FULL, zero_cond_t=True),
  "tiny": _TINY,
  "tiny_2511": dict(_TINY, zero_cond_t=True),
}

SHARDING_RULES = (
  (r"^patch_in/kernel$", (None, "fsdp")),
  (r"^(text_in|time/in)/kernel$", ("fsdp", "tensor")),
  (r"^time/out/kernel$", ("tensor", "fsdp")),
  (r"^final_modulation/kernel$", ("fsdp", "tensor")),
  (r"^patch_out/kernel$", ("fsdp",)),
  *mmdit.sharding_rules("joint"),
)
_PATCH = 2


class QwenImage(nn.Module):
  """Velocity of latents; call with method="encode" or as a function.

  Attributes:
    depth: joint blocks.
    heads: attention heads.
    axes: features of a head that each rotary axis (image, row, column) rotates;
      their sum is the head width.
    channels: of the latents.
    text_width: features of the words.
    zero_cond_t: whether given images are modulated at time zero, since they
      are clean; named as in `config.json`.
  """

  depth: int
  heads: int
  axes: tuple[int, int, int] = (16, 56, 56)
  channels: int = 16
  text_width: int = 3584
  zero_cond_t: bool = False
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
    self.text_norm = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype)
    self.patch_in, self.text_in = dense(d), dense(d)
    self.time = mmdit.Mlp(d, self.dtype)
    self.joint = mmdit.stacked(
      mmdit.JointBlock, self.depth, self.remat, self.unroll
    )(d, self.heads, self.dtype, attention=self.attention)
    self.final_modulation = dense(2 * d)
    self.patch_out = dense(_PATCH**2 * self.channels)

  def encode(self, prompts: Cond) -> Cond:
    """Projects words to the network's width; mask and images stay unchanged."""
    text = self.text_in(self.text_norm(prompts["words"]))
    return dict(prompts, words=text)

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    b, height, width, _ = x.shape
    text = cond["words"].astype(self.dtype)
    images = [x, *jax.tree.leaves(cond.get("picture"))]
    squares = [mmdit.patches(p, _PATCH, by_channel=True) for p in images]
    y = self.patch_in(jnp.concatenate(squares, axis=1))
    rotary = mmdit.rotary_angles(
      _places(text.shape[1], [(p.shape[1], p.shape[2]) for p in images]),
      self.axes,
    )
    key_mask = jnp.concatenate(
      [cond["mask"].astype(bool), jnp.ones((b, y.shape[1]), bool)], axis=1
    )
    count = squares[0].shape[1]
    t = _network_time(t, self.dtype)
    signal = nn.silu(self.time(mmdit.wave_features(t)))
    signals: Array | mmdit.TwoTimes = signal
    if self.zero_cond_t and len(images) > 1:
      still = nn.silu(self.time(mmdit.wave_features(0 * t)))
      signals = mmdit.TwoTimes(signal, still, jnp.arange(y.shape[1]) >= count)
    (y, _), _ = self.joint((y, text), signals, rotary, key_mask)
    final = sequence.rows(self.final_modulation(signal))
    scale, shift = jnp.split(final[:, None], 2, -1)
    y = mmdit.modulate(y[:, :count], shift, scale)
    y = self.patch_out(y).astype(jnp.float32)
    return mmdit.from_patches(y, _PATCH, height, width, by_channel=True)

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    return self(x, t, self.encode(prompts))


def _network_time(t: Float[Array, "B"], dtype: Any) -> Float[Array, "B"]:
  """t as the public pipelines pass it to a network of that dtype.

  In 16 bits 1000 t is rounded, and so is a thousandth of that: bfloat16 keeps
  multiples of 4 above 512. The compiler may not remove the rounding.
  """
  info = jnp.finfo(dtype)
  if info.bits >= 32:
    return t
  rounded = lambda x: jax.lax.reduce_precision(x, info.nexp, info.nmant)
  return rounded(rounded(1000 * jnp.asarray(t, jnp.float32)) / 1000)


def guide(
  v_cond: Float[Array, "B H W C"],
  v_uncond: Float[Array, "B H W C"],
  scale: float | Array,
  t: Float[Array, "B"],
) -> Float[Array, "B H W C"]:
  """Plain guidance, with every token rescaled to its conditional norm.

  A token is 2 x 2 latent pixels with all channels. A token that plain guidance
  makes zero stays zero. See `Policy.guide`.
  """
  del t
  v_cond = v_cond.astype(jnp.float32)
  v = v_uncond + scale * (v_cond - v_uncond)
  norm, target_norm = _lengths(v), _lengths(v_cond)
  is_nonzero = norm > 0
  return v * jnp.where(
    is_nonzero, target_norm / jnp.where(is_nonzero, norm, 1.0), 0.0
  )


def _lengths(v: Float[Array, "B H W C"]) -> Float[Array, "B H W 1"]:
  """Euclidean norm of each pixel's token."""
  b, h, w, _ = v.shape
  squares = jnp.square(v.astype(jnp.float32))
  squares = squares.reshape(b, h // _PATCH, _PATCH, w // _PATCH, _PATCH, -1)
  length = numerics.safe_sqrt(squares.sum((2, 4, 5), keepdims=True))
  length = jnp.broadcast_to(length, (*squares.shape[:-1], 1))
  return length.reshape(b, h, w, 1)


def _places(text_tokens: int, sizes: list[tuple[int, int]]) -> np.ndarray:
  """(image, row, column) of every token, [N, 3], rows from the middle."""
  sides = [(h // _PATCH, w // _PATCH) for h, w in sizes]
  grids = []
  for i, (h, w) in enumerate(sides):
    middle = np.array([-i, h - h // 2, w - w // 2])
    grids.append(np.indices((1, h, w)).reshape(3, -1).T - middle)
  start = max(max(h // 2, w // 2) for h, w in sides)
  line = np.arange(start, start + text_tokens)
  return np.concatenate([np.stack([line] * 3, -1), *grids])


def layout(net: QwenImage) -> tuple[convert.Rule, ...]:
  """The diffusers names (`QwenImageTransformer2DModel`) of the parameters."""
  names = mmdit.attention_names("attn") | {
    "image_modulation": "img_mod.1",
    "text_modulation": "txt_mod.1",
    "image_up": "img_mlp.net.0.proj",
    "image_down": "img_mlp.net.2",
    "text_up": "txt_mlp.net.0.proj",
    "text_down": "txt_mlp.net.2",
  }
  return (
    *convert.norm("text_norm", "txt_norm", bias=False),
    *convert.linear("patch_in", "img_in"),
    *convert.linear("text_in", "txt_in"),
    *mmdit.mlp_layout("time", "time_text_embed.timestep_embedder"),
    *mmdit.block_layout(
      "joint", "transformer_blocks.{}", names, range(net.depth)
    ),
    *convert.linear("final_modulation", "norm_out.linear"),
    *convert.linear("patch_out", "proj_out"),
  )


def public_config(net: QwenImage) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  flags = {"zero_cond_t": True} if net.zero_cond_t else {}
  return flags | {
    "_class_name": "QwenImageTransformer2DModel",
    "patch_size": _PATCH,
    "in_channels": net.channels * _PATCH**2,
    "out_channels": net.channels,
    "num_layers": net.depth,
    "attention_head_dim": sum(net.axes),
    "num_attention_heads": net.heads,
    "joint_attention_dim": net.text_width,
    "axes_dims_rope": list(net.axes),
  }


def public_fields(net: QwenImage) -> fields.Fields:
  """Accepted fields of `config.json` for this network.

  Excludes Qwen-Image-Layered, which embeds whether a layer is transparent
  (`use_additional_t_cond`) and has positions per layer (`use_layer3d_rope`),
  and distilled guidance, which diffusers names without implementing it.
  """
  known = fields.Fields(
    fixed={
      "guidance_embeds": (False,),
      "use_additional_t_cond": (False,),
      "use_layer3d_rope": (False,),
      "zero_cond_t": (net.zero_cond_t,),
    },
    unread=("pooled_projection_dim",),  # in the published file, but unused
    absent={"zero_cond_t": False},
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> QwenImage:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(QwenImage, SIZES, size, fields)


def make_policy(
  *,
  size: str = "qwen_image",
  latent_side: int = 64,
  words: int = 512,
  remat: str = "full",
  unroll: int = 1,
  dtype: str = "bfloat16",
  attention: str = "plain",
  takes_source: bool = False,
  param_dtype: str = "float32",
) -> Policy:
  """Qwen-Image as pure functions.

  `encode` takes {"words" [P, L, 3584], "mask" bool [P, L]}, the last states of
  Qwen2.5-VL and their mask, and for the edit forms "picture" [P, H, W, 16],
  latents of the image to edit; or a tuple of several, each of its own size.

  Args:
    size: one of `SIZES`.
    latent_side: latent pixels per side, an eighth of the image's.
    words: L of the prompts passed to `init`; no parameter depends on it.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scan.
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
    remat=remat,
    unroll=unroll,
    dtype=jnp.dtype(dtype),
    attention=attention,
  )
  require_counts("config.model.", latent_side=latent_side, words=words)
  if latent_side % _PATCH:
    raise UserError(f"model.latent_side={latent_side} is odd")
  prompts = {
    "words": jax.ShapeDtypeStruct((1, words, net.text_width), jnp.float32),
    "mask": jax.ShapeDtypeStruct((1, words), jnp.bool_),
  }
  shape = (latent_side, latent_side, net.channels)
  source = {"picture": jax.ShapeDtypeStruct((1, *shape), jnp.float32)}
  policy = latent_policy.make(
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
  return dataclasses.replace(policy, guide=guide)
