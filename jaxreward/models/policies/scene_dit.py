"""A small flow-matching transformer for the scenes, conditioned on text or class.

Words pass once through a text encoder, which also computes the keys and values
for every image block; image patches then run through adaLN-modulated blocks
that attend jointly to patches and words. `encode` therefore costs one pass per
prompt, however many samples and denoising steps follow.

The network predicts x0; velocity is (x_t - x0) / max(t, T_MIN).

With `takes_source` it also reads the words of instructions and a source image,
whose patches are extra channels of the noisy ones; their weights are
zero-initialized, so that a checkpoint without them gives the same samples.

With `frames` it generates videos [F, H, W, C]: the image blocks process each
frame separately, and each block then attends to the tokens of all frames with
additional weights, whose output is zero-initialized. A video policy that starts
from an image checkpoint therefore gives, in every frame, exactly the image that
the checkpoint gives for that frame's noise (inflation, as in Video LDM,
Blattmann et al. 2023, https://arxiv.org/abs/2304.08818).

With `user`, the width of a user vector, each block also attends to a few tokens
that are linear in it, in a separate softmax whose output is added with a weight
that starts at 0 (decoupled cross-attention, as in PPD, Dang et al. 2025,
https://arxiv.org/abs/2501.06655): zeros, the average user, add nothing.

With `soft_tokens` each of the first `soft_layers` blocks also attends to that
many learned tokens. Each is the sum of one for the block and one for the block
and the band of time, and they precede the words as text states (SoftREPA, Lee
et al. 2025, https://arxiv.org/abs/2503.08250).

With `condition="class"` it reads no words: the class of a prompt of one item,
its (count, colour, shape), is added to the time that modulates the blocks, as
in DiT (Peebles & Xie 2023, https://arxiv.org/abs/2212.09748, adaLN-Zero). The
embedding of a class is the sum of one row for each of its three parts, so that
held-out classes consist of parts seen in training; the empty prompt is the null
class of classifier-free guidance.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxreward.errors import (
  UserError,
  nearest,
  require_counts,
  require_not_negative,
)
from jaxreward.models import blocks
from jaxreward.types import Array, ArrayLike, Cond, Params, Policy

T_MIN = 0.05
# Sizes of the scenes; a test holds them to the grammar and the renderer.
IMAGE_SIZE, PATCH = 36, 12
VOCABULARY, EDIT_WORDS, MAX_WORDS = 24, 12, 8
# By task: words of descriptions, of instructions only, maximum in a prompt.
LANGUAGES = {
  "scenes": (VOCABULARY, EDIT_WORDS, MAX_WORDS),
  "portraits": (35, 10, 16),
  "motion": (33, 0, 11),
}
LONGER = ("motion",)  # whose vocabulary begins with that of the scenes
MAX_LAYERS = 1000
USER_TOKENS = 4
SOFT_BANDS = 100  # bands of time, each with its own soft tokens
CONDITIONS = ("text", "class")
# Classes: prompts of one item. Ids of the first word of each part, and how many
# values it has; plurals follow the shapes, and any colour comes before them all.
CLASS_KINDS = ("single", "counting", "colours")
COUNTS, COLOURS, SHAPES = (1, 4), (11, 5), (16, 4)

# Columns of the first matrix of a pair and rows of the second over `tensor`;
# the other side over `fsdp`. Stacked blocks carry their depth first.
# Features are split, not words, positions or pixels: every split dimension is
# a multiple of `width`. Kernels of the image blocks have the layer axis first.
SHARDING_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"^text/(embedding|edit_words|position)$", (None, "fsdp")),
  (r"^classes/(count|colour|shape|null)$", (None, "fsdp")),
  (r"^(place|when)$", (None, "fsdp")),
  (r"^blocks/when$", (None, None, "fsdp")),
  (r"^(patch|source|user)_in/kernel$", (None, "fsdp")),
  (r"^blocks/user_weight$", ()),
  (r"^soft_(tokens|times)$", (None, None, "fsdp")),
  (r"^patch_out/kernel$", ("fsdp", None)),
  (r"^(time_in|pooled_in|final_modulation)/kernel$", ("fsdp", "tensor")),
  (r"^time_out/kernel$", ("tensor", "fsdp")),
  (r"^text/(kv|block_\d+/(qkv|up))/kernel$", ("fsdp", "tensor")),
  (r"^text/block_\d+/(out|down)/kernel$", ("tensor", "fsdp")),
  (r"^blocks/(modulation|(frames_)?qkv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^blocks/((frames_)?out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"(^|/)bias$", ()),
)


class TextBlock(nn.Module):
  """Pre-norm transformer block over the words of a prompt."""

  width: int
  heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array) -> Array:
    d = self.width
    h = blocks.rows(
      blocks.dense(3 * d, "qkv", self.dtype), blocks.layer_norm(x)
    )
    q, k, v = blocks.to_heads(h, 3, self.heads)
    q, k = blocks.rms_norm(q), blocks.rms_norm(k)
    h = blocks.from_heads(blocks.attend(q, k, v, blocks.key_bias(mask)))
    x = x + blocks.rows(blocks.dense(d, "out", self.dtype), h)
    h = blocks.rows(blocks.dense(3 * d, "up", self.dtype), blocks.layer_norm(x))
    h = blocks.squared_relu(h)
    return x + blocks.rows(blocks.dense(d, "down", self.dtype), h)


class TextEncoder(nn.Module):
  """Words [P, L] -> keys and values of every image block, and a pooled
  state."""

  width: int
  heads: int
  layers: int
  depth: int
  dtype: Any
  edits: bool = False
  language: str = "scenes"

  @nn.compact
  def __call__(
    self, tokens: ArrayLike | None, soft: Array | None = None
  ) -> Cond:
    """With `soft` states [P, L, D] in place of words, only "kv"."""
    d = self.width
    if soft is not None:
      return {"kv": self._kv(blocks.layer_norm(soft.astype(self.dtype)))}
    tokens = jnp.asarray(tokens)
    mask = (tokens > 0).at[:, 0].set(True)  # the empty prompt is one pad word
    words, edit_words, length = LANGUAGES[self.language]
    table = self.param("embedding", nn.initializers.normal(0.5), (words, d))
    if self.edits:
      extra = self.param(
        "edit_words", nn.initializers.normal(0.5), (edit_words, d)
      )
      table = jnp.concatenate([table, extra])
    place = self.param("position", nn.initializers.normal(0.5), (length, d))
    x = (table[tokens] + place).astype(self.dtype)
    for i in range(self.layers):
      x = TextBlock(d, self.heads, self.dtype, name=f"block_{i}")(x, mask)
    x = blocks.layer_norm(x)
    weight = mask[..., None] / mask.sum(-1)[:, None, None]
    return {
      "kv": self._kv(x),
      "mask": mask,
      "pooled": (x * weight).sum(1).astype(jnp.float32),
    }

  def _kv(self, x: Array) -> Array:
    layer = blocks.dense(self.depth * 2 * self.width, "kv", self.dtype)
    return keys_and_values(blocks.rows(layer, x), self.depth, self.heads)


def keys_and_values(x: Array, depth: int, heads: int) -> Array:
  """[P, L, depth * 2 * D] -> [P, depth, 2, H, L, D / H], the keys normalized."""
  # Heads first, as the image blocks attend.
  kv = blocks.to_heads(x, depth * 2, heads)
  kv = kv.reshape(depth, 2, *kv.shape[1:])
  return jnp.stack([blocks.rms_norm(kv[:, 0]), kv[:, 1]], 2).swapaxes(0, 1)


def classes(
  tokens: Int[ArrayLike, "P L"],
) -> tuple[Int[Array, "P 3"], Bool[Array, "P"]]:
  """((count, colour or 0 for any, shape), whether it is a class).

  For prompts of one item; all padding is the null class.
  """
  tokens = jnp.asarray(tokens)

  def word(first: int, count: int) -> Array:
    """Index, from 1, among `count` consecutive words; 0 for none of them."""
    is_match = (tokens >= first) & (tokens < first + count)
    return jnp.where(is_match, tokens - first + 1, 0).max(-1)

  count, colour = word(*COUNTS), word(*COLOURS)
  shape = word(SHAPES[0], 2 * SHAPES[1])
  parts = jnp.stack([count - 1, colour, (shape - 1) % SHAPES[1]], -1)
  return parts, tokens[:, 0] > 0


class ClassEncoder(nn.Module):
  """Words of prompts of one item [P, L] -> class embedding for modulation."""

  width: int

  @nn.compact
  def __call__(self, tokens: Int[ArrayLike, "P L"]) -> Cond:
    row = lambda name, count: self.param(
      name, nn.initializers.normal(0.5), (count, self.width)
    )
    parts, is_class = classes(tokens)
    sizes = {"count": COUNTS[1], "colour": 1 + COLOURS[1], "shape": SHAPES[1]}
    embedding = sum(
      row(name, count)[parts[:, i]]
      for i, (name, count) in enumerate(sizes.items())
    )
    null = row("null", 1)
    return {"class": jnp.where(is_class[:, None], embedding, null)}


class ImageBlock(nn.Module):
  """adaLN block: patches attend to patches and words, then an MLP.

  In videos, tokens [B, F N, D], patches first attend within their frame and
  then, before the MLP, to all frames.
  """

  width: int
  heads: int
  mlp_ratio: int
  dtype: Any
  frames: int = 0

  @nn.compact
  def __call__(self, x: Array, scan_in: Any) -> tuple[Array, None]:
    # words, user and soft: k and v, [B, 2, H, L, D / H], or None
    words, bias, signal, user, soft, no_soft = scan_in
    d = self.width
    modulation = blocks.dense(6 * d, "modulation", self.dtype, zero=True)(
      signal
    )
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
      modulation[:, None], 6, axis=-1
    )
    y = blocks.layer_norm(x) * (1 + scale1) + shift1
    if self.frames:
      y = y.reshape(len(y) * self.frames, -1, d)
      words, bias, user, soft = jax.tree.map(
        lambda z: jnp.repeat(z, self.frames, 0), (words, bias, user, soft)
      )
    qkv = blocks.rows(blocks.dense(3 * d, "qkv", self.dtype), y)
    q, k, v = blocks.to_heads(qkv, 3, self.heads)
    k = blocks.rms_norm(k)
    if words is not None:
      k = jnp.concatenate([k, words[:, 0]], axis=2)
      v = jnp.concatenate([v, words[:, 1]], axis=2)
    if soft is not None:
      k = jnp.concatenate([k, soft[:, 0]], axis=2)
      v = jnp.concatenate([v, soft[:, 1]], axis=2)
      more = (*bias.shape[:-1], soft.shape[-2])
      bias = jnp.concatenate([bias, jnp.broadcast_to(no_soft, more)], -1)
    q = blocks.rms_norm(q)
    y = blocks.attend(q, k, v, bias)
    if user is not None:
      weight = self.param("user_weight", nn.initializers.zeros, ())
      every = jnp.zeros((len(q), 1, 1, user.shape[-2]))
      of_user = blocks.attend(q, user[:, 0], user[:, 1], every)
      y = y + weight.astype(y.dtype) * of_user
    y = blocks.from_heads(y).reshape(x.shape)
    x = x + gate1 * blocks.rows(blocks.dense(d, "out", self.dtype), y)
    if self.frames:
      x = x + self._of_all_frames(x)
    y = blocks.layer_norm(x) * (1 + scale2) + shift2
    y = blocks.rows(blocks.dense(self.mlp_ratio * d, "up", self.dtype), y)
    y = blocks.squared_relu(y)
    y = blocks.rows(blocks.dense(d, "down", self.dtype), y)
    return x + gate2 * y, None

  def _of_all_frames(self, x: Array) -> Array:
    """Attention of tokens [B, F N, D] to those of every frame; zeros at first."""
    d = self.width
    when = self.param("when", nn.initializers.normal(0.5), (self.frames, d))
    when = jnp.repeat(when, x.shape[1] // self.frames, 0).astype(x.dtype)
    layer = blocks.dense(3 * d, "frames_qkv", self.dtype)
    qkv = blocks.rows(layer, blocks.layer_norm(x) + when)
    q, k, v = blocks.to_heads(qkv, 3, self.heads)
    q, k = blocks.rms_norm(q), blocks.rms_norm(k)
    y = blocks.attend(q, k, v, jnp.zeros((len(x), 1, 1, x.shape[1])))
    layer = blocks.dense(d, "frames_out", self.dtype, zero=True)
    return blocks.rows(layer, blocks.from_heads(y))


def axis_normal(scale: float) -> Any:
  """Initializer of [side * side, D]: a normal per row plus one per column.

  Positions of one row or one column then share what is learned about them.
  """

  def init(key: Array, shape: tuple[int, int]) -> Array:
    side = math.isqrt(shape[0])
    rows, columns = jax.random.normal(key, (2, side, shape[1]))
    return scale * 0.5**0.5 * (rows[:, None] + columns).reshape(shape)

  return init


class SceneDiT(nn.Module):
  """Predicts x0 from x_t; call with method="encode" or as a function."""

  image_size: int = IMAGE_SIZE
  channels: int = 3
  patch: int = PATCH
  frames: int = 0
  width: int = 128
  depth: int = 6
  heads: int = 4
  mlp_ratio: int = 3
  text_layers: int = 2
  remat: str = "none"
  unroll: int = 1
  takes_source: bool = False
  user: int = 0
  soft_tokens: int = 0
  soft_layers: int = 5
  condition: str = "text"
  language: str = "scenes"
  place_scale: float = 0.5
  place_axes: bool = False
  dtype: Any = jnp.float32

  def setup(self):
    d = self.width
    if self.condition == "class":
      self.classes = ClassEncoder(d)
    else:
      self.text = TextEncoder(
        d, self.heads, self.text_layers, self.depth, self.dtype,
        self.takes_source, self.language,
      )  # fmt: skip
      self.pooled_in = blocks.dense(d, None, self.dtype)
    self.patch_in = blocks.dense(d, None, self.dtype)
    if self.takes_source:
      self.source_in = blocks.dense(d, None, self.dtype, zero=True)
    if self.user:
      self.user_in = blocks.dense(
        self.depth * 2 * USER_TOKENS * d, None, self.dtype, bias=False
      )
    side = self.image_size // self.patch
    init = nn.initializers.normal(self.place_scale)
    if self.place_axes:
      init = axis_normal(self.place_scale)
    self.place = self.param("place", init, (side * side, d))
    if self.frames:
      self.when = self.param("when", nn.initializers.zeros, (self.frames, d))
    if self.soft_tokens:
      init, layers = (
        nn.initializers.normal(0.02),
        min(self.soft_layers, self.depth),
      )
      shape = layers, self.soft_tokens, d
      self.soft_states = self.param("soft_tokens", init, shape)
      shape = SOFT_BANDS, layers, d
      self.soft_times = self.param("soft_times", init, shape)
    self.time_in = blocks.dense(d, None, self.dtype)
    self.time_out = blocks.dense(d, None, self.dtype)
    self.blocks = nn.scan(
      blocks.remat(ImageBlock, self.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=((1, nn.broadcast, nn.broadcast, 1, 1, 0),),
      length=self.depth,
      unroll=self.unroll,
    )(d, self.heads, self.mlp_ratio, self.dtype, self.frames)
    self.final_modulation = blocks.dense(2 * d, None, self.dtype, zero=True)
    self.patch_out = blocks.dense(
      self.patch**2 * self.channels, None, self.dtype, zero=True
    )

  def encode(self, prompts: Any) -> Cond:
    """Word ids [P, L], or {"tokens"} with the policy's other inputs.

    These are "source" [P, H, W, 3] in [0, 1] and "user" [P, U].
    """
    inputs = prompts if isinstance(prompts, dict) else {"tokens": prompts}
    read = self.classes if self.condition == "class" else self.text
    cond = read(inputs["tokens"])
    if "source" in inputs:
      source = jnp.asarray(inputs["source"])
      is_usable = jnp.isfinite(source).all((1, 2, 3))[:, None, None]
      y = self._patches(jnp.where(is_usable[..., None], source * 2 - 1, 0.0))
      y = blocks.rows(self.source_in, y).astype(jnp.float32)
      cond = dict(cond, source=jnp.where(is_usable, y, 0.0))
    if "user" in inputs:
      cond = dict(cond, user=self._user(jnp.asarray(inputs["user"])))
    return cond

  def _user(self, user: Array) -> Array:
    """[P, U] -> keys and values of every block [P, depth, 2, H, n, D / H]."""
    kv = self.user_in(user.astype(self.dtype))
    kv = kv.reshape(len(user), USER_TOKENS, -1)
    return keys_and_values(kv, self.depth, self.heads)

  def _soft(self, t: Array) -> Array:
    """Times [B] -> keys and values [B, depth, 2, H, n, D / H]; those of later
    blocks are zeros."""
    band = jnp.clip(t * SOFT_BANDS, 0, SOFT_BANDS - 1).astype(int)
    states = self.soft_states + self.soft_times[band][:, :, None]
    layers, n = states.shape[1:3]
    kv = self.text(None, states.reshape(len(t), layers * n, -1))["kv"]
    kv = kv.reshape(*kv.shape[:4], layers, n, -1)
    kv = jnp.stack([kv[:, i, :, :, i] for i in range(layers)], 1)
    later = ((0, 0), (0, self.depth - layers), *[(0, 0)] * 4)
    return jnp.pad(kv, later)

  def _patches(self, x: Array) -> Array:
    """[B, (F,) H, W, C] -> [B, (F) (H / p) (W / p), p p C]."""
    b, size, channels = x.shape[0], x.shape[-2], x.shape[-1]
    p, side = self.patch, size // self.patch
    y = x.reshape(b, -1, p, side, p, channels).swapaxes(2, 3)
    return y.reshape(b, -1, p * p * channels).astype(self.dtype)

  def _pixels(self, y: Array, shape: tuple[int, ...]) -> Array:
    """Tokens to latents of a shape, the inverse of `_patches`."""
    b, size, channels = shape[0], shape[-2], shape[-1]
    p, side = self.patch, size // self.patch
    y = y.reshape(b, -1, side, p, p, channels).swapaxes(2, 3)
    return y.reshape(shape)

  def __call__(self, x: Array, t: Array, cond: Cond) -> Array:
    y = blocks.rows(self.patch_in, self._patches(x))
    place = self.place
    if self.frames:
      place = (self.when[:, None] + place).reshape(-1, self.width)
    y = y + place.astype(self.dtype)
    if "source" in cond:
      y = y + cond["source"].astype(self.dtype)
    signal = self.time_in(blocks.timestep_features(t, self.width))
    signal = self.time_out(nn.silu(signal))
    if self.condition == "class":
      signal = nn.silu(signal + cond["class"].astype(self.dtype))
      words, mask = None, jnp.ones((len(x), 0), bool)
    else:
      signal = nn.silu(signal + self.pooled_in(cond["pooled"]))
      words, mask = cond["kv"].astype(self.dtype), cond["mask"]
    bias = blocks.key_bias(mask, prefix=len(self.place))
    user = cond["user"].astype(self.dtype) if "user" in cond else None
    soft = no_soft = None
    if self.soft_tokens:
      soft = self._soft(t).astype(self.dtype)
      is_later = jnp.arange(self.depth) >= self.soft_layers
      no_soft = jnp.where(is_later, -1e30, 0.0)
    y, _ = self.blocks(y, (words, bias, signal, user, soft, no_soft))
    shift, scale = jnp.split(self.final_modulation(signal)[:, None], 2, -1)
    y = blocks.layer_norm(y) * (1 + scale) + shift
    y = blocks.rows(self.patch_out, y).astype(jnp.float32)
    return self._pixels(y, x.shape)

  def init_forward(self, x: Array, t: Array, prompts: Any) -> Array:
    return self(x, t, self.encode(prompts))


def velocity_from_x0(x_t: Array, x0: Array, t: Array) -> Array:
  """(x_t - x0) / max(t, T_MIN), with t [B] broadcast over pixels."""
  t = jnp.maximum(t, T_MIN).reshape(-1, *([1] * (x_t.ndim - 1)))
  return (x_t - x0) / t


def require_sizes(
  prefix: str, *, depth: int, text_layers: int, unroll: int, **sizes: int
) -> None:
  """Refuses sizes out of range.

  Raises:
    UserError: names the field, its value and the range.
  """
  require_counts(prefix, **sizes)
  require_counts(prefix, most=MAX_LAYERS, depth=depth, unroll=unroll)
  require_counts(prefix, least=0, most=MAX_LAYERS, text_layers=text_layers)


def require_language(prefix: str, language: str) -> None:
  """Refuses an unknown language.

  Raises:
    UserError: lists the known ones.
  """
  if language not in LANGUAGES:
    raise UserError(
      f'{prefix}language="{language}" is not known'
      f"{nearest(language, LANGUAGES)}; known: {', '.join(LANGUAGES)}"
    )


def make_policy(
  *,
  image_size: int = IMAGE_SIZE,
  channels: int = 3,
  patch: int = PATCH,
  frames: int = 0,
  width: int = 128,
  depth: int = 6,
  heads: int = 4,
  mlp_ratio: int = 3,
  text_layers: int = 2,
  remat: str = "none",
  unroll: int = 1,
  takes_source: bool = False,
  user: int = 0,
  soft_tokens: int = 0,
  soft_layers: int = 5,
  condition: str = "text",
  language: str = "scenes",
  place_scale: float = 0.5,
  place_axes: bool = False,
  dtype: str = "float32",
) -> Policy:
  """The scene policy as pure functions.

  Args:
    image_size: pixels per side; latents are pixels in [-1, 1].
    channels: of the latents. If not 3, the latents are those of an autoencoder,
      and image_size and patch are in latent pixels.
    patch: pixels per side of a token; divides image_size.
    frames: of a video; 0 for images.
    width: features; divisible by 2 * heads.
    depth: image blocks.
    heads: attention heads.
    mlp_ratio: hidden features of the MLP over width.
    text_layers: text blocks.
    remat: "none", "dots" (store matrix products) or "full" (store nothing).
    unroll: blocks per iteration of the scan over blocks; `depth` unrolls it fully,
      which compiles longer and runs faster on a CPU. Parameters are stacked
      either way.
    takes_source: also reads instructions and a source image.
    user: width of the user vector, a further input; 0 for none.
    soft_tokens: learned tokens beside the words of a block; 0 for none.
    soft_layers: number of first blocks that have them.
    condition: "text", or "class" for prompts of one item (`CLASS_KINDS`), of
      which only count, colour and shape are read.
    language: vocabulary of its prompts, "scenes", "portraits" or "motion".
    place_scale: standard deviation of the initial position embeddings.
    place_axes: initialize them as the sum of a row's and a column's embedding.
    dtype: of matrix products, "float32" or "bfloat16"; parameters stay float32.

  Raises:
    UserError: sizes or options that do not fit together.
  """
  if condition not in CONDITIONS:
    raise UserError(
      f'model.condition="{condition}" is not known'
      f"{nearest(condition, CONDITIONS)}; known: {', '.join(CONDITIONS)}"
    )
  require_language("model.", language)
  if condition == "class" and language != "scenes":
    raise UserError(
      f'model.condition="class": classes are those of the scenes, and'
      f' model.language="{language}"; set the condition to "text"'
    )
  if condition == "class" and takes_source:
    raise UserError(
      'model.condition="class": a class is no instruction to edit; set it to'
      ' "text", or model.takes_source to False'
    )
  if channels != 3 and takes_source:
    raise UserError(
      f"config.model.channels={channels}: a policy over latents takes no image to"
      " start from; set model.takes_source to False"
    )
  require_counts("config.model.", least=3, channels=channels)
  require_sizes(
    "config.model.", image_size=image_size, patch=patch, width=width,
    depth=depth, heads=heads, mlp_ratio=mlp_ratio, text_layers=text_layers,
    unroll=unroll,
  )  # fmt: skip
  require_not_negative("config.model.", place_scale=place_scale)
  require_counts("config.model.", least=0, user=user, soft_tokens=soft_tokens)
  require_counts("config.model.", soft_layers=soft_layers)
  if condition == "class" and soft_tokens:
    raise UserError(
      f"model.soft_tokens={soft_tokens}: they stand beside words, and"
      ' model.condition="class" reads none; set one of the two back'
    )
  require_counts("config.model.", least=0, frames=frames)
  if takes_source and (frames or not LANGUAGES[language][1]):
    raise UserError(
      f"model.takes_source=True: there are no edits of videos (model.frames={frames},"
      f' model.language="{language}"); set it to False'
    )
  if image_size % patch:
    raise UserError(
      f"model.patch={patch} does not divide model.image_size={image_size}"
    )
  if width % (2 * heads):
    raise UserError(
      f"model.width={width} is not divisible by 2 * model.heads={2 * heads}"
    )
  blocks.require_remat(remat)
  net = SceneDiT(
    image_size=image_size,
    channels=channels,
    patch=patch,
    frames=frames,
    width=width,
    depth=depth,
    heads=heads,
    mlp_ratio=mlp_ratio,
    text_layers=text_layers,
    remat=remat,
    unroll=unroll,
    takes_source=takes_source,
    user=user,
    soft_tokens=soft_tokens,
    soft_layers=soft_layers,
    condition=condition,
    language=language,
    place_scale=place_scale,
    place_axes=place_axes,
    dtype=jnp.dtype(dtype),
  )
  shape = (image_size, image_size, channels)
  if frames:
    shape = (frames, *shape)

  def init(key: Array) -> Params:
    length = LANGUAGES[language][-1]
    x, prompts = jnp.zeros((1, *shape)), {"tokens": jnp.zeros((1, length), int)}
    if takes_source:
      prompts["source"] = x
    if user:
      prompts["user"] = jnp.zeros((1, user))
    args = x, jnp.zeros((1,)), prompts
    return net.init(key, *args, method="init_forward")["params"]

  def encode(params: Params, prompts: Any) -> Cond:
    return net.apply({"params": params}, prompts, method="encode")

  def velocity(params: Params, x_t: Array, t: Array, cond: Cond) -> Array:
    x0 = jnp.asarray(net.apply({"params": params}, x_t, t, cond))
    return velocity_from_x0(x_t, x0, t)

  return Policy(
    init=init,
    encode=encode,
    velocity=velocity,
    to_pixels=lambda latents, decoder=None: latents[..., :3] * 0.5 + 0.5,
    latent_shape=shape,
    sharding_rules=SHARDING_RULES,
    takes_source=takes_source,
    user=user,
    language=language,
    optional="|".join(
      pattern
      for pattern, is_there in (
        (r"^(text/edit_words|source_in/.*)$", takes_source),
        (r"^(user_in/.*|blocks/user_weight)$", user),
        (r"^soft_(tokens|times)$", soft_tokens),
        (r"^(when|blocks/(when|frames_.*))$", frames),
      )
      if is_there
    ),
    longer=r"^text/(embedding|position)$" if language in LONGER else "",
    kinds=CLASS_KINDS if condition == "class" else (),
  )
