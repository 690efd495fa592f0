"""Z-Image: one stream of pixels and text, prompts encoded by Qwen3.

Z-Image team 2025 (https://arxiv.org/abs/2511.22699). Latents are those of
FLUX.1, read as 2 x 2 squares. Separate blocks refine pixels and text before the
joint blocks. Text and pixels are padded to multiples of 32 tokens with learned
tokens, which are attended to; positions are rotary, and on the first axis text
positions are counted and pixels follow them. Its time and velocity run from
noise (0) to data (1); both are reversed here.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError, require_counts
from jaxreward.models import blocks, convert, fields, sequence
from jaxreward.models.policies import latent_policy, mmdit
from jaxreward.types import Array, Cond, Policy

_FULL = dict(depth=30, refiners=2, heads=30)
SIZES: dict[str, dict[str, Any]] = {
  "z_image": _FULL,
  "z_image_turbo": _FULL,
  "tiny": dict(
    depth=2, refiners=2, heads=3, axes=(4, 6, 6), channels=4, text_width=24
  ),
}

SHARDING_RULES = (
  (r"^patch_in/kernel$", (None, "fsdp")),
  (r"^(text_in|time/in)/kernel$", ("fsdp", "tensor")),
  (r"^time/out/kernel$", ("tensor", "fsdp")),
  (r"^final_modulation/kernel$", ("fsdp", "tensor")),
  (r"^patch_out/kernel$", ("fsdp",)),
  (r"^(image|text)_pad$", ()),
  *mmdit.sharding_rules("(image|text|all)_blocks"),
)
_PATCH = 2
_MULTIPLE = 32  # of tokens
_THETA = 256.0
_EPS = 1e-5
_SIGNAL = 256  # features of the time, at most


class Block(mmdit.Stream):
  """Attention and a gated MLP, normalised before and after.

  The time signal scales its inputs and outputs.
  """

  eps: float = _EPS

  def dense(self, features: int, name: str):
    has_bias = name.endswith("modulation")
    return blocks.dense(features, name, self.dtype, bias=has_bias)

  def norm(self, x: Array, name: str) -> Array:
    norm = nn.RMSNorm(epsilon=self.eps, dtype=self.dtype, name=name)
    return norm(sequence.rows(x))

  @nn.compact
  def __call__(
    self, x: Array, signal: Array | None, rotary: mmdit.Rotary, mask: Array
  ) -> tuple[Array, None]:
    scale: Any = 0.0
    gate: Any = 1.0
    scale2, gate2 = scale, gate
    if signal is not None:
      scale, gate, scale2, gate2 = self.modulation(signal, "all", 4)
      gate, gate2 = jnp.tanh(gate), jnp.tanh(gate2)
    y = self.norm(x, "before_norm") * (1 + scale)
    (y,) = self.attend_all([(y, "all")], rotary, mask)
    y = self.norm(self.narrow(y, "all_out"), "after_norm")
    x = x + gate * y
    y = self.norm(x, "mlp_before_norm") * (1 + scale2)
    hidden = int(self.width / 3 * 8)
    y = nn.silu(self.dense(hidden, "all_gate")(y)) * self.dense(
      hidden, "all_up"
    )(y)
    y = self.norm(self.narrow(y, "all_down"), "mlp_after_norm")
    return x + gate2 * y, None


class ZImage(nn.Module):
  """Velocity of latents; call with method="encode" or as a function.

  Attributes:
    depth: blocks over pixels and text.
    refiners: blocks over pixels alone, and over text alone.
    heads: attention heads.
    axes: features of a head that each rotary axis (text, row, column) rotates;
      their sum is the head width.
    channels: of the latents.
    text_width: features of the words.
  """

  depth: int
  refiners: int
  heads: int
  axes: tuple[int, int, int] = (32, 48, 48)
  channels: int = 16
  text_width: int = 2560
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
    pad = lambda name: self.param(name, nn.initializers.zeros, (1, d))
    self.image_pad, self.text_pad = pad("image_pad"), pad("text_pad")
    self.text_norm = nn.RMSNorm(epsilon=_EPS, dtype=self.dtype)
    self.patch_in, self.text_in = dense(d), dense(d)
    self.time = mmdit.Mlp(min(d, _SIGNAL), self.dtype, hidden=1024)
    stack = lambda depth, unroll: mmdit.stacked(
      Block, depth, self.remat, unroll
    )(d, self.heads, self.dtype, attention=self.attention)
    self.image_blocks = stack(self.refiners, 1)
    self.text_blocks = stack(self.refiners, 1)
    self.all_blocks = stack(self.depth, self.unroll)
    self.final_modulation = dense(d)
    self.patch_out = dense(_PATCH**2 * self.channels)

  def encode(self, prompts: Cond) -> Cond:
    """Refines words; the mask covers words and learned tokens."""
    words, mask = prompts["words"], prompts["mask"].astype(bool)
    extra = -words.shape[1] % _MULTIPLE
    words = jnp.pad(words, ((0, 0), (0, extra), (0, 0)))
    mask = jnp.pad(mask, ((0, 0), (0, extra)))
    text = self.text_in(self.text_norm(words))
    text = jnp.where(mask[..., None], text, self.text_pad.astype(text.dtype))
    count = -(-mask.sum(-1, keepdims=True) // _MULTIPLE) * _MULTIPLE
    attended = jnp.arange(mask.shape[1]) < count
    rotary = mmdit.rotary_angles(_lines(mask.shape[1]), self.axes, _THETA)
    text, _ = self.text_blocks(text, None, rotary, attended)
    return dict(prompts, words=text, mask=attended)

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    b, height, width, _ = x.shape
    text, mask = cond["words"].astype(self.dtype), cond["mask"].astype(bool)
    signal = self.time(mmdit.wave_features(1 - t))
    y = self.patch_in(mmdit.patches(x, _PATCH))
    count = y.shape[1]
    pads = jnp.broadcast_to(
      self.image_pad.astype(y.dtype), (b, -count % _MULTIPLE, self.width)
    )
    y = jnp.concatenate([y, pads], axis=1)
    rotary = self._angles(height, width, mask)
    key_mask = jnp.concatenate([jnp.ones((b, y.shape[1]), bool), mask], axis=1)
    alone = tuple(part[:, : y.shape[1]] for part in rotary)
    y, _ = self.image_blocks(y, signal, alone, key_mask[:, : y.shape[1]])
    y = jnp.concatenate([y, text], axis=1)
    y, _ = self.all_blocks(y, signal, rotary, key_mask)
    scale = sequence.rows(self.final_modulation(nn.silu(signal)))[:, None]
    y = mmdit.modulate(y[:, :count], jnp.zeros_like(scale), scale)
    y = -self.patch_out(y).astype(jnp.float32)
    return mmdit.from_patches(y, _PATCH, height, width)

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    return self(x, t, self.encode(prompts))

  def _angles(
    self, height: int, width: int, mask: Bool[Array, "B L"]
  ) -> tuple[Float[Array, "B N D"], Float[Array, "B N D"]]:
    """Cosines and sines of squares, learned tokens and text.

    Squares lie one step beyond the text of their row on the first axis.
    """
    squares = np.indices((1, height // _PATCH, width // _PATCH))
    squares = squares.reshape(3, -1).T
    pads = np.zeros((-len(squares) % _MULTIPLE, 3), int)
    text = _lines(mask.shape[1])
    ids = np.concatenate([squares, pads, text])
    angles = mmdit.rotary_angles(ids, self.axes, _THETA)
    places = np.arange(mask.shape[1] + 2)[:, None]
    first = mmdit.rotary_angles(places, self.axes[:1], _THETA)
    start = mask.sum(-1) + 1
    turned = self.axes[0] // 2
    is_moved = np.arange(len(ids))[:, None] < len(squares)
    is_moved = is_moved & (np.arange(sum(self.axes) // 2) < turned)

    def move(table: Array, fixed: Array) -> Array:
      rows = jnp.take(table, start, 0)
      rows = jnp.pad(rows, ((0, 0), (0, fixed.shape[-1] - turned)))
      return jnp.where(is_moved, rows[:, None], fixed)

    cos, sin = map(move, first, angles)
    return cos, sin


def _lines(tokens: int) -> Int[np.ndarray, "{tokens} 3"]:
  """Positions of text: 1, 2, ... on the first axis."""
  return np.arange(1, tokens + 1)[:, None] * np.array([1, 0, 0])


def layout(net: ZImage) -> tuple[convert.Rule, ...]:
  """The diffusers names (`ZImageTransformer2DModel`) of the parameters."""
  final = "all_final_layer.2-1"
  rules = [
    *convert.linear("patch_in", "all_x_embedder.2-1"),
    *convert.norm("text_norm", "cap_embedder.0", bias=False),
    *convert.linear("text_in", "cap_embedder.1"),
    *convert.linear("time/in", "t_embedder.mlp.0"),
    *convert.linear("time/out", "t_embedder.mlp.2"),
    *convert.linear("final_modulation", f"{final}.adaLN_modulation.1"),
    *convert.linear("patch_out", f"{final}.linear"),
    convert.Rule("image_pad", "x_pad_token"),
    convert.Rule("text_pad", "cap_pad_token"),
  ]
  names = {
    "all_out": "attention.to_out.0",
    "all_gate": "feed_forward.w1",
    "all_up": "feed_forward.w3",
    "all_down": "feed_forward.w2",
    "before_norm": "attention_norm1",
    "after_norm": "attention_norm2",
    "mlp_before_norm": "ffn_norm1",
    "mlp_after_norm": "ffn_norm2",
  }
  names |= {f"all_{part}": f"attention.to_{part}" for part in "qkv"}
  names |= {f"all_{part}norm": f"attention.norm_{part}" for part in "qk"}
  time = {"all_modulation": "adaLN_modulation.0"}
  for ours, public, depth in (
    ("image_blocks", "noise_refiner.{}", net.refiners),
    ("text_blocks", "context_refiner.{}", net.refiners),
    ("all_blocks", "layers.{}", net.depth),
  ):
    layers = range(depth)
    rules += mmdit.block_layout(ours, public, names, layers, bias=False)
    if ours != "text_blocks":
      rules += mmdit.block_layout(ours, public, time, layers)
  return tuple(rules)


def public_config(net: ZImage) -> dict[str, Any]:
  """The `config.json` that diffusers reads."""
  return {
    "_class_name": "ZImageTransformer2DModel",
    "all_patch_size": [_PATCH],
    "all_f_patch_size": [1],
    "in_channels": net.channels,
    "dim": net.width,
    "n_layers": net.depth,
    "n_refiner_layers": net.refiners,
    "n_heads": net.heads,
    "n_kv_heads": net.heads,
    "norm_eps": _EPS,
    "qk_norm": True,
    "cap_feat_dim": net.text_width,
    "rope_theta": _THETA,
    "t_scale": 1000.0,
    "axes_dims": list(net.axes),
    "axes_lens": [1536, 512, 512],
  }


def public_fields(net: ZImage) -> fields.Fields:
  """Accepted fields of `config.json` for this network.

  Excludes the variants that take images (`siglip_feat_dim`).
  """
  known = fields.Fields(
    fixed={"siglip_feat_dim": (None,)},
    unread=("axes_lens",),  # maximum positions
  )
  return fields.like(public_config(net), known)


def make_net(size: str, **fields: Any) -> ZImage:
  """The network of a named size, with overrides of its fields."""
  return latent_policy.make_net(ZImage, SIZES, size, fields)


def make_policy(
  *,
  size: str = "z_image",
  latent_side: int = 64,
  words: int = 512,
  remat: str = "full",
  unroll: int = 1,
  dtype: str = "bfloat16",
  attention: str = "plain",
  param_dtype: str = "float32",
) -> Policy:
  """Z-Image as pure functions.

  `encode` takes {"words" [P, L, 2560], "mask" bool [P, L]}, the states of Qwen3
  before its last layer and their mask, whose true values come first.

  Args:
    size: one of `SIZES`.
    latent_side: latent pixels per side, an eighth of the image's.
    words: L of the prompts passed to `init`; no parameter depends on it.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scan.
    dtype: of matrix products.
    attention: "plain", "flash" (TPU), "cudnn" (GPU, 16 bits), or "auto" (chosen
      for the platform).
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
