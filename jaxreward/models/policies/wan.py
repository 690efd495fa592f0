"""Wan 2.x: video transformer with rotary positions in time, height and width.

Wan team 2025 (https://arxiv.org/abs/2503.20314). Latents are videos [F, H, W,
C] of the causal video autoencoder; images are videos of one frame. Prompts
are the states of umT5, padded with zeros. For image-to-video, latents of the
first frame with its mask are extra channels, and Wan 2.1 also attends to the
penultimate states of a CLIP vision tower.

Wan 2.2 A14B is two such networks: one for times near noise, one for those near
the video. The smaller TI2V takes the clean first frame in place of its noisy
latents, at time zero.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError, require_counts
from jaxreward.models import attention, blocks, convert, fields, sequence
from jaxreward.models.policies import experts, latent_policy, mmdit
from jaxreward.types import Array, ArrayLike, Cond, Policy

_LARGE = dict(depth=40, heads=40, hidden=13824)
_TINY = dict(
  depth=2, heads=2, head_width=12, hidden=40, channels=4, text_width=24
)
SIZES: dict[str, dict[str, Any]] = {
  "wan21_1b": dict(depth=30, heads=12, hidden=8960),
  "wan21_14b": _LARGE,
  "wan21_i2v_14b": dict(_LARGE, extra_channels=20, vision_width=1280),
  "wan22_5b": dict(depth=30, heads=24, hidden=14336, channels=48),
  "wan22_t2v_14b": _LARGE,
  "wan22_i2v_14b": dict(_LARGE, extra_channels=20),
  "tiny": _TINY,
  "tiny_i2v": dict(_TINY, extra_channels=8, vision_width=16),
  "tiny22_i2v": dict(_TINY, extra_channels=8),
}

_ANY = "^((high|low)/)?"
SHARDING_RULES = (
  (rf"{_ANY}patch_in/kernel$", (None, "fsdp")),
  (rf"{_ANY}(time|words)/in/kernel$", ("fsdp", "tensor")),
  (rf"{_ANY}(time|words)/out/kernel$", ("tensor", "fsdp")),
  (rf"{_ANY}modulation/kernel$", ("fsdp", "tensor")),
  (rf"{_ANY}vision/in/kernel$", ("fsdp", "tensor")),
  (rf"{_ANY}vision/out/kernel$", ("tensor", "fsdp")),
  (rf"{_ANY}patch_out/kernel$", ("fsdp",)),
  (r"(^|/)table$", ()),
  *mmdit.sharding_rules("((high|low)/)?blocks"),
)
_PATCH = 2


def modulate(
  x: Float[Array, "B N D"],
  shift: Float[Array, "B #N D"],
  scale: Float[Array, "B #N D"],
) -> Float[Array, "B N D"]:
  """Layer norm, scale and shift in float32, in the type of x."""
  x = sequence.rows(x)
  y = blocks.layer_norm(x.astype(jnp.float32)) * (1 + scale) + shift
  return y.astype(x.dtype)


def parts(
  signal: Float[Array, "B S K D"], tokens: int
) -> list[Float[Array, "B N D"]]:
  """The K vectors of a signal, shared by all tokens or one per token.

  Args:
    signal: one for all tokens, or one per frame; S divides the tokens.
    tokens: of the video.
  """
  count = signal.shape[1]
  vectors = [signal[:, :, i] for i in range(signal.shape[2])]
  if count == 1:
    return vectors
  return [jnp.repeat(x, tokens // count, axis=1) for x in vectors]


class Words(nn.Module):
  """Two layers with GELU that project words to the network's width."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x: ArrayLike) -> Array:
    x = blocks.dense(self.width, "in", self.dtype)(jnp.asarray(x))
    return blocks.dense(self.width, "out", self.dtype)(nn.gelu(x))


class Vision(nn.Module):
  """Projects states of a vision tower to the network's width."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x: ArrayLike) -> Array:
    features = x.shape[-1]
    norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)
    x = norm("norm_in")(jnp.asarray(x)).astype(self.dtype)
    x = nn.gelu(blocks.dense(features, "in", self.dtype)(x), approximate=False)
    x = blocks.dense(self.width, "out", self.dtype)(x)
    return norm("norm_out")(x).astype(self.dtype)


class Block(nn.Module):
  """Attention over the video, attention to the words, an MLP."""

  width: int
  heads: int
  hidden: int
  dtype: Any
  attention: str = "plain"

  def attend(self, q: Array, k: Array, v: Array) -> Array:
    return attention.attention(q, k, v, form=self.attention)

  def dense(self, features: int, name: str):
    return blocks.dense(features, name, self.dtype)

  def part(self, x: Array, name: str, *, norm: bool) -> Array:
    """Queries, keys or values, [B, N, H, D], normalised over all heads."""
    y = self.dense(self.width, name)(x)
    if norm:
      y = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name=f"{name}norm")(y)
    return y.reshape(*y.shape[:2], self.heads, -1)

  @nn.compact
  def __call__(
    self, x: Array, words: Array, vision: Any, signal: Array, rotary: Any
  ) -> tuple[Array, None]:
    table = self.param(
      "table", nn.initializers.normal(self.width**-0.5), (6, self.width)
    )
    shift, scale, gate, shift2, scale2, gate2 = parts(
      signal + table.astype(jnp.float32), x.shape[1]
    )
    y = modulate(x, shift, scale)
    q, k = (self.part(y, f"self_{p}", norm=True) for p in "qk")
    q, k = mmdit.rotate(q, rotary), mmdit.rotate(k, rotary)
    y = self.attend(q, k, self.part(y, "self_v", norm=False))
    y = sequence.rows(self.dense(self.width, "self_out")(y))
    x = (x + gate * y).astype(x.dtype)

    norm = nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="cross_norm")
    q = self.part(norm(x).astype(x.dtype), "cross_q", norm=True)
    k = self.part(words, "cross_k", norm=True)
    y = self.attend(q, k, self.part(words, "cross_v", norm=False))
    if vision is not None:
      k = self.part(vision, "vision_k", norm=True)
      v = self.part(vision, "vision_v", norm=False)
      y = y + self.attend(q, k, v)
    x = x + sequence.rows(self.dense(self.width, "cross_out")(y))

    y = self.dense(self.hidden, "mlp_up")(modulate(x, shift2, scale2))
    y = sequence.rows(self.dense(self.width, "mlp_down")(nn.gelu(y)))
    return (x + gate2 * y).astype(x.dtype), None


class Wan(nn.Module):
  """Velocity of latents; call with method="encode" or as a function.

  Attributes:
    depth: blocks.
    heads: attention heads.
    hidden: features within the MLP of a block.
    head_width: features of a head.
    channels: of the latents.
    extra_channels: channels that the first frame adds to the latents.
    text_width: features of the words.
    vision_width: features of the vision tower's states, 0 without one.
    takes_first: whether the first latent frame is given; its velocity points to
      it.
  """

  depth: int
  heads: int
  hidden: int
  head_width: int = 128
  channels: int = 16
  extra_channels: int = 0
  text_width: int = 4096
  vision_width: int = 0
  takes_first: bool = False
  remat: str = "none"
  unroll: int = 1
  dtype: Any = jnp.float32
  attention: str = "plain"

  @property
  def width(self) -> int:
    return self.heads * self.head_width

  def setup(self):
    d = self.width
    self.patch_in = blocks.dense(d, None, self.dtype)
    self.words = Words(d, self.dtype)
    if self.vision_width:
      self.vision = Vision(d, self.dtype)
    # The time signal stays in float32, as the public weights expect.
    self.time = mmdit.Mlp(d, jnp.float32)
    self.modulation = blocks.dense(6 * d, None, jnp.float32)
    self.blocks = mmdit.stacked(Block, self.depth, self.remat, self.unroll)(
      d, self.heads, self.hidden, self.dtype, self.attention
    )
    self.table = self.param("table", nn.initializers.normal(d**-0.5), (2, d))
    self.patch_out = blocks.dense(_PATCH**2 * self.channels, None, self.dtype)

  def encode(self, prompts: Cond) -> Cond:
    """Projects words and vision to the network's width; keeps the first frame.

    The empty prompt comes without an image.
    """
    cond = dict(prompts, words=self.words(prompts["words"]))
    if "vision" in prompts:
      cond["vision"] = self.vision(prompts["vision"])
    return cond

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    b, frames, height, width, _ = x.shape
    y, times = x, t[:, None]
    if self.extra_channels:
      y = jnp.concatenate([x, cond["picture"]], axis=-1)
    if self.takes_first:
      y = jnp.concatenate([cond["picture"], x[:, 1:]], axis=1)
      times = jnp.where(np.arange(frames) > 0, times, 0.0)
    y = mmdit.patches(y.reshape(b * frames, *y.shape[2:]), _PATCH)
    y = self.patch_in(y.reshape(b, -1, y.shape[-1]))
    grid = np.indices((frames, height // _PATCH, width // _PATCH))
    rotary = mmdit.rotary_angles(grid.reshape(3, -1).T, self.axes)
    time = self.time(mmdit.wave_features(times.reshape(-1)))
    signal = self.modulation(nn.silu(time)).reshape(b, -1, 6, self.width)
    time, signal = time.reshape(b, -1, self.width), sequence.rows(signal)
    words = cond["words"].astype(self.dtype)
    y, _ = self.blocks(y, words, cond.get("vision"), signal, rotary)
    table = jnp.asarray(self.table, jnp.float32)
    shift, scale = parts(time[:, :, None] + table, y.shape[1])
    y = self.patch_out(modulate(y, shift, scale)).astype(jnp.float32)
    y = y.reshape(b * frames, -1, y.shape[-1])
    y = mmdit.from_patches(y, _PATCH, height, width)
    v = y.reshape(b, frames, height, width, -1)
    if self.takes_first:
      # The sampler steps from its own time, which may differ from t.
      sigma = jnp.maximum(cond.get("sigma", t), 1e-6)[:, None, None, None, None]
      v = v.at[:, :1].set((x[:, :1] - cond["picture"]) / sigma)
    return v

  @property
  def axes(self) -> tuple[int, int, int]:
    """Features of a head that time, height and width rotate."""
    side = 2 * (self.head_width // 6)
    return self.head_width - 2 * side, side, side

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    return self(x, t, self.encode(prompts))


def layout(net: Wan) -> tuple[convert.Rule, ...]:
  """The diffusers names (`WanTransformer3DModel`) of the parameters."""
  square = mmdit.patch_form(_PATCH)
  squeeze = convert.Form(lambda x: x[0], lambda x: x[None])
  embed = "condition_embedder"
  names = {"mlp_up": "ffn.net.0.proj", "mlp_down": "ffn.net.2"}
  for ours, public in (("self", "attn1"), ("cross", "attn2")):
    names |= {f"{ours}_{p}": f"{public}.to_{p}" for p in "qkv"}
    names |= {f"{ours}_{p}norm": f"{public}.norm_{p}" for p in "qk"}
    names[f"{ours}_out"] = f"{public}.to_out.0"
  rules = [
    convert.Rule(
      "patch_in/kernel",
      "patch_embedding.weight",
      convert.Form(
        lambda x: square.to_ours(x[:, :, 0]),
        lambda x: square.to_public(x)[:, :, None],
      ),
    ),
    convert.Rule("patch_in/bias", "patch_embedding.bias"),
    convert.Rule("table", "scale_shift_table", squeeze),
    convert.Rule(
      "blocks/table", "blocks.{}.scale_shift_table", squeeze, range(net.depth)
    ),
    *mmdit.mlp_layout("time", f"{embed}.time_embedder"),
    *mmdit.mlp_layout("words", f"{embed}.text_embedder"),
    *convert.linear("modulation", f"{embed}.time_proj"),
    *convert.linear("patch_out", "proj_out"),
    *convert.norm("blocks/cross_norm", "blocks.{}.norm2", range(net.depth)),
  ]
  if net.vision_width:
    names |= {f"vision_{p}": f"attn2.add_{p}_proj" for p in "kv"}
    names["vision_knorm"] = "attn2.norm_added_k"
    image = f"{embed}.image_embedder"
    rules += convert.norm("vision/norm_in", f"{image}.norm1")
    rules += convert.linear("vision/in", f"{image}.ff.net.0.proj")
    rules += convert.linear("vision/out", f"{image}.ff.net.2")
    rules += convert.norm("vision/norm_out", f"{image}.norm2")
  rules += mmdit.block_layout("blocks", "blocks.{}", names, range(net.depth))
  return tuple(rules)


def public_config(net: Wan) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  return {
    "_class_name": "WanTransformer3DModel",
    "patch_size": [1, _PATCH, _PATCH],
    "num_attention_heads": net.heads,
    "attention_head_dim": net.head_width,
    "in_channels": net.channels + net.extra_channels,
    "out_channels": net.channels,
    "text_dim": net.text_width,
    "ffn_dim": net.hidden,
    "num_layers": net.depth,
    "image_dim": net.vision_width or None,
    "added_kv_proj_dim": net.width if net.vision_width else None,
  }


def public_fields(net: Wan) -> fields.Fields:
  """Accepted fields of `config.json` for this network.

  `pos_embed_seq_len` is for networks given a first and a last frame;
  `rope_max_seq_len` only bounds the positions.
  """
  known = fields.Fields(
    fixed={
      "cross_attn_norm": (True,),
      "eps": (1e-6,),
      "freq_dim": (256,),
      "pos_embed_seq_len": (None,),
      "qk_norm": ("rms_norm_across_heads",),
    },
    unread=("rope_max_seq_len",),
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> Wan:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(Wan, SIZES, size, fields)


def make_policy(
  *,
  size: str = "wan21_1b",
  frames: int = 21,
  latent_height: int = 60,
  latent_width: int = 104,
  words: int = 512,
  boundary: float = 0.0,
  low_guidance: float = 0.0,
  takes_source: bool = False,
  remat: str = "full",
  unroll: int = 1,
  dtype: str = "bfloat16",
  attention: str = "plain",
  param_dtype: str = "float32",
) -> Policy:
  """Wan as pure functions; latents are videos [F, H, W, C].

  `encode` takes {"words" [P, L, 4096]}; sizes with i2v also "picture"
  [P, F, H, W, 20], 4 channels of mask and 16 of latents of the first frame
  (`video_vae.from_images`), and for Wan 2.1 also "vision" [P, 257, 1280]. With
  `takes_source` other sizes take the latents of the first frame as "picture"
  [P, 1, H, W, C].

  With a boundary there are two networks, {"high", "low"}. Each sampler step
  runs one of them; losses whose rows differ in time run both.

  Args:
    size: one of `SIZES`.
    frames: F, of latents; a video has 4 (F - 1) + 1.
    latent_height: H, an eighth of the video's, a sixteenth for "wan22_5b".
    latent_width: W.
    words: L of the prompts passed to `init`; no parameter depends on it.
    boundary: the first network is used at times from here on, the second below;
      0 for one network.
    low_guidance: guidance scale below the boundary, if guidance is on; 0 for
      the same scale.
    takes_source: whether a text-to-video size is given the first frame.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scan.
    dtype: of matrix products.
    attention: "plain", "flash" (TPU), "cudnn" (GPU, 16 bits), or "auto"
      (chosen for the platform).
    param_dtype: of the parameters that `init` creates.

  Raises:
    UserError: an unknown size, an odd side, an invalid boundary or one for a
      size with a vision tower, or `low_guidance` without a boundary.
  """
  net = make_net(
    size,
    takes_first=takes_source and not SIZES.get(size, {}).get("extra_channels"),
    remat=remat,
    unroll=unroll,
    dtype=jnp.dtype(dtype),
    attention=attention,
  )
  require_counts(
    "config.model.", frames=frames, latent_height=latent_height,
    latent_width=latent_width, words=words,
  )  # fmt: skip
  for name, side in (("height", latent_height), ("width", latent_width)):
    if side % _PATCH:
      raise UserError(f"model.latent_{name}={side} is odd")
  if not 0 <= boundary < 1:
    raise UserError(
      f"model.boundary={boundary}: expected a time between 0 and 1, or 0 for"
      " one network"
    )
  if boundary and net.vision_width:
    raise UserError(
      f'model.boundary={boundary}: model.size="{size}" reads states of a vision'
      " tower, which two networks do not; set it to 0"
    )
  if not 0 <= low_guidance < math.inf or (low_guidance and not boundary):
    raise UserError(
      f"model.low_guidance={low_guidance}: expected a scale for times below a"
      f" model.boundary, which is {boundary}"
    )
  shape = (frames, latent_height, latent_width)
  floats = lambda *sizes: jax.ShapeDtypeStruct((1, *sizes), jnp.float32)
  sources = {}
  if net.extra_channels:
    sources["picture"] = floats(*shape, net.extra_channels)
  if net.takes_first:
    sources["picture"] = floats(1, *shape[1:], net.channels)
  if net.vision_width:
    sources["vision"] = floats(257, net.vision_width)
  module = experts.Experts(net, net.copy()) if boundary else net
  policy = latent_policy.make(
    module,
    {"words": floats(words, net.text_width)},
    latent_shape=(*shape, net.channels),
    param_dtype=jnp.dtype(param_dtype),
    sharding_rules=SHARDING_RULES,
    layout=layout(net),
    pictures=sources or None,
    public_config=public_config(net),
    public_fields=public_fields(net),
  )
  if not isinstance(module, experts.Experts):
    return policy

  def guide(v_cond: Array, v_uncond: Array, scale: Any, t: Array) -> Array:
    """Plain guidance with another scale below the boundary."""
    scales = jnp.where(t >= boundary, scale, low_guidance)
    scales = scales[:, None, None, None, None]
    return v_uncond + scales * (v_cond - v_uncond)

  return dataclasses.replace(
    policy,
    velocity=experts.by_time(module, boundary),
    parts=experts.FOLDERS,
    guide=guide if low_guidance else None,
  )
