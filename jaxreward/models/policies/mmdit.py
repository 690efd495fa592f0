"""Two streams of tokens, text and pixels, that attend to each other.

Building blocks of multimodal diffusion transformers (Esser et al. 2024,
https://arxiv.org/abs/2403.03206), shared by SD3, FLUX and Qwen-Image. Text
precedes pixels wherever both are on one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.models import attention, blocks, convert, sequence
from jaxreward.types import Array, ArrayLike
from pallas_kernels import stream_attention

# cosines and sines, [N, head width / 2], or [B, N, ...] where rows differ
Rotary = tuple[Array, Array] | None


class TwoTimes(NamedTuple):
  """Modulation signals of two times, where some pixels are given.

  Attributes:
    now: at the sampling time, for text and noisy pixels.
    still: at time zero, for given pixels.
    given: which pixels are given.
  """

  now: Float[Array, "B D"]
  still: Float[Array, "B D"]
  given: Bool[ArrayLike, "N"]


_EPS = 1e-6
# Megatron's split of every pair of products; stacks have a leading layer axis.
_WIDE = r"(modulation|_q|_k|_v|_up|_gate)/kernel$"
_NARROW = r"(_out|_down)/kernel$"


def sharding_rules(
  stacks: str, singles: str = "$^"
) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
  """Rules of the blocks in scopes whose names match, stacked or single."""
  return (
    (rf"^({stacks})/\w*{_WIDE}", (None, "fsdp", "tensor")),
    (rf"^({stacks})/\w*{_NARROW}", (None, "tensor", "fsdp")),
    (rf"^({singles})/\w*{_WIDE}", ("fsdp", "tensor")),
    (rf"^({singles})/\w*{_NARROW}", ("tensor", "fsdp")),
    (r"(^|/)(bias|scale)$", ()),
  )


def rotate(
  x: Float[Array, "B N H D"], rotary: tuple[Array, Array]
) -> Float[Array, "B N H D"]:
  """Rotates neighbouring pairs of features by the angles of their token.

  Args:
    x: queries or keys.
    rotary: cosines and sines, float32 [N, D / 2] or [B, N, D / 2].
  """
  cos, sin = (part[..., :, None, :] for part in rotary)
  pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
  a, b = pairs[..., 0], pairs[..., 1]
  rotated = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1)
  return rotated.reshape(x.shape).astype(x.dtype)


def rotary_angles(
  ids: np.ndarray, widths: Sequence[int], theta: float = 10000.0
) -> tuple[Array, Array]:
  """Cosines and sines of rotary positions with several axes.

  Args:
    ids: [N, axes], the position of every token.
    widths: features of a head that each axis rotates.
    theta: base of the frequencies.

  Returns:
    Two float32 [N, sum(widths) / 2].
  """
  angles = [
    np.outer(ids[:, i], theta ** -(np.arange(0, width, 2) / width))
    for i, width in enumerate(widths)
  ]
  angle = np.concatenate(angles, -1)
  return jnp.asarray(np.cos(angle), "float32"), jnp.asarray(
    np.sin(angle), "float32"
  )


def patches(
  x: Float[ArrayLike, "B H W C"], patch: int, *, by_channel: bool = False
) -> Float[ArrayLike, "B N F"]:
  """Squares of pixels as tokens [B, N, patch * patch * C], row by row.

  Args:
    x: pixels.
    patch: side of a square.
    by_channel: a token is [C, patch, patch], else [patch, patch, C].
  """
  b, h, w, c = x.shape
  x = x.reshape(b, h // patch, patch, w // patch, patch, c)
  x = x.transpose(0, 1, 3, *((5, 2, 4) if by_channel else (2, 4, 5)))
  return x.reshape(b, -1, patch * patch * c)


def from_patches(
  x: Float[Array, "B N F"],
  patch: int,
  height: int,
  width: int,
  *,
  by_channel: bool = False,
) -> Float[Array, "B {height} {width} C"]:
  """Inverse of `patches`."""
  b, rows, columns = x.shape[0], height // patch, width // patch
  if by_channel:
    x = x.reshape(b, rows, columns, -1, patch, patch)
    x = x.transpose(0, 1, 4, 2, 5, 3)
  else:
    x = x.reshape(b, rows, columns, patch, patch, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, height, width, -1)


def patch_form(patch: int) -> convert.Form:
  """A convolution [D, C, p, p] over squares as a product [p * p * C, D]."""
  from_public, to_public = convert.CONV.to_ours, convert.CONV.to_public

  def to_ours(x: np.ndarray) -> np.ndarray:
    x = from_public(x)
    return x.reshape(-1, x.shape[-1])

  return convert.Form(
    to_ours, lambda x: to_public(x.reshape(patch, patch, -1, x.shape[-1]))
  )


def wave_features(
  t: Float[ArrayLike, "B"], width: int = 256
) -> Float[Array, "B {width}"]:
  """Cosines, then sines, of 1000 t at frequencies from 1 to 1 / 10000."""
  frequency = 10000.0 ** -(np.arange(width // 2) / (width // 2))
  angle = 1000.0 * jnp.asarray(t, jnp.float32)[:, None] * frequency[None]
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def _cut(x: Array, dtype: Any) -> Array:
  """x rounded to a 16-bit type; compilers may not remove the rounding."""
  info = jnp.finfo(dtype)
  if info.bits >= 32:
    return x
  return jax.lax.reduce_precision(x, info.nexp, info.nmant)


def rounded(x: Float[ArrayLike, "B"], dtype: Any) -> Float[Array, "B"]:
  """x as FLUX networks read it: 1000 x in their own dtype.

  bfloat16 keeps multiples of 4 above 512, of 16 above 2048.
  """
  x = _cut(jnp.asarray(x, jnp.float32), dtype)
  return _cut(1000 * x, dtype) / 1000 if jnp.finfo(dtype).bits < 32 else x


def rounded_time(t: Float[ArrayLike, "B"], dtype: Any) -> Float[Array, "B"]:
  """`rounded` time in FLUX's loop, which rounds 1000 t before dividing."""
  t = jnp.asarray(t, jnp.float32)
  if jnp.finfo(dtype).bits >= 32:
    return t
  return rounded(_cut(1000 * t, dtype) / 1000, dtype)


class Mlp(nn.Module):
  """Two products with SiLU between, for vectors [B, F].

  Attributes:
    width: of the result.
    hidden: features between; `width` if 0.
    bias: of the products.
  """

  width: int
  dtype: Any
  hidden: int = 0
  bias: bool = True

  @nn.compact
  def __call__(self, x: ArrayLike) -> Array:
    hidden = self.hidden or self.width
    dense = lambda features, name: blocks.dense(
      features, name, self.dtype, bias=self.bias
    )
    return dense(self.width, "out")(
      nn.silu(dense(hidden, "in")(jnp.asarray(x)))
    )


def modulate(x: Array, shift: Array, scale: Array) -> Array:
  """Layer norm of x, scaled by 1 + scale and shifted."""
  return blocks.layer_norm(sequence.rows(x)) * (1 + scale) + shift


class HeadNorm(nn.Module):
  """RMS norm of queries or keys; returns its scale if x is None."""

  dtype: Any
  eps: float = _EPS

  @nn.compact
  def __call__(self, width: int, x: Array | None = None) -> Array:
    scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
    if x is None:
      return scale
    wide = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(wide), -1, keepdims=True)
    return (x * (jax.lax.rsqrt(mean + self.eps) * scale)).astype(self.dtype)


class Stream(nn.Module):
  """Names and sizes shared by the parts of a block."""

  width: int
  heads: int
  dtype: Any
  qk_norm: bool = True
  attention: str = "plain"
  eps: float = _EPS  # of the norms of queries and keys

  def dense(self, features: int, name: str):
    return blocks.dense(features, name, self.dtype)

  def attend_all(
    self,
    streams: Sequence[tuple[Array, str]],
    rotary: Rotary = None,
    mask: Any = None,
  ) -> list[Array]:
    """Attention over the tokens of several streams.

    Args:
      streams: (tokens [B, N_i, width], prefix of its parameters).
      rotary: of all tokens.
      mask: key mask.

    Returns:
      [B, N_i, width] of each stream, before the products `out`.
    """
    tokens = sum(x.shape[1] for x, _ in streams)
    width = self.width // self.heads
    products = [self.products(x, prefix) for x, prefix in streams]
    norms = [
      HeadNorm(self.dtype, self.eps, name=f"{prefix}_{part}norm")
      for _, prefix in streams
      for part in "qk"
      if self.qk_norm
    ]
    # The kernel's norms have that epsilon.
    if self.eps == _EPS and attention.is_fused(
      self.attention, self.heads, width, tokens, mask
    ):
      scales = [norm(width) for norm in norms]
      return stream_attention.stream_attention(
        products, self.heads, scales=jnp.stack(scales) if scales else None,
        rotary=rotary,
      )  # fmt: skip
    split = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
    parts = [[split(x) for x in stream] for stream in products]
    for i, norm in enumerate(norms):
      stream, part = divmod(i, 2)
      parts[stream][part] = norm(width, parts[stream][part])
    q, k, v = (
      jnp.concatenate(part, axis=1) if len(parts) > 1 else part[0]
      for part in zip(*parts, strict=True)
    )
    if rotary is not None:
      q, k = rotate(q, rotary), rotate(k, rotary)
    y = attention.attention(q, k, v, mask, self.attention)
    ends = np.cumsum([x.shape[1] for x, _ in streams])[:-1]
    return jnp.split(y, ends, axis=1) if len(parts) > 1 else [y]

  def products(self, x: Array, prefix: str) -> tuple[Array, Array, Array]:
    """Queries, keys and values of a stream, heads side by side."""
    q, k, v = (self.dense(self.width, f"{prefix}_{part}")(x) for part in "qkv")
    return q, k, v

  def feed_forward(self, x: Array, prefix: str) -> Array:
    x = self.dense(4 * self.width, f"{prefix}_up")(x)
    return self.narrow(nn.gelu(x), f"{prefix}_down")

  def narrow(self, x: Array, name: str) -> Array:
    """Projects back to the stream's width; only rows are sharded."""
    return sequence.rows(self.dense(self.width, name)(x))

  def modulation(
    self, signal: Array | TwoTimes, prefix: str, parts: int
  ) -> list[Array]:
    """Vectors [B, 1, D], or [B, N, D] where the time differs by token."""
    dense = self.dense(parts * self.width, f"{prefix}_modulation")
    if not isinstance(signal, TwoTimes):
      y = sequence.rows(dense(signal))
      return jnp.split(y[:, None], parts, axis=-1)
    y = sequence.rows(dense(jnp.stack([signal.now, signal.still], axis=1)))
    is_still = jnp.asarray(signal.given)[:, None]
    return [
      jnp.where(is_still, part[:, 1:], part[:, :1])
      for part in jnp.split(y, parts, axis=-1)
    ]


class JointBlock(Stream):
  """Text and pixels attend to both; each stream has its own weights.

  Attributes:
    dual: pixels also have a separate self-attention (SD3.5 medium).
    last: text is dropped after the block.
  """

  dual: bool = False
  last: bool = False

  @nn.compact
  def __call__(
    self,
    carry: tuple[Array, Array],
    signal: Any,
    rotary: Rotary,
    mask: Any,
  ) -> tuple[tuple[Array, Array], None]:
    x, text = carry
    shift, scale, gate, *rest = self.modulation(
      signal, "image", 9 if self.dual else 6
    )
    shift2, scale2, gate2, *own = rest
    now = signal.now if isinstance(signal, TwoTimes) else signal
    of_words = self.modulation(now, "text", 2 if self.last else 6)
    # The last block has scale before shift.
    word_shift, word_scale = of_words[:2][:: -1 if self.last else 1]
    image = modulate(x, shift, scale)
    words = modulate(text, word_shift, word_scale)
    y_text, y = self.attend_all(
      [(words, "text"), (image, "image")], rotary, mask
    )
    updated = x + gate * self.narrow(y, "image_out")
    if self.dual:
      shift3, scale3, gate3 = own
      (z,) = self.attend_all([(modulate(x, shift3, scale3), "own")])
      updated = updated + gate3 * self.narrow(z, "own_out")
    x = updated
    x = x + gate2 * self.feed_forward(modulate(x, shift2, scale2), "image")
    if not self.last:
      gate, shift2, scale2, gate2 = of_words[2:]
      text = text + gate * self.narrow(y_text, "text_out")
      h = self.feed_forward(modulate(text, shift2, scale2), "text")
      text = text + gate2 * h
    return (x, text), None


def stacked(block: Any, depth: int, remat: str, unroll: int) -> Any:
  """The block as a scan over `depth` layers with shared other inputs."""
  return nn.scan(
    blocks.remat(block, remat),
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,
    length=depth,
    unroll=unroll,
  )


def block_layout(
  ours: str,
  public: str,
  names: dict[str, str],
  layers: range | None,
  *,
  bias: bool = True,
) -> tuple[convert.Rule, ...]:
  """Rules of a block: `names` gives the public name of each of its parts.

  Parts named "...norm" have no bias, and others only with `bias`.
  """
  rules: list[convert.Rule] = []
  for part, name in names.items():
    make = convert.norm if part.endswith("norm") else convert.linear
    rules += make(
      f"{ours}/{part}",
      f"{public}.{name}",
      layers,
      bias=bias and not part.endswith("norm"),
    )
  return tuple(rules)


def mlp_layout(ours: str, public: str) -> tuple[convert.Rule, ...]:
  """Rules of an `Mlp`."""
  return (
    *convert.linear(f"{ours}/in", f"{public}.linear_1"),
    *convert.linear(f"{ours}/out", f"{public}.linear_2"),
  )


def attention_names(public: str, *, qk_norm: bool = True) -> dict[str, str]:
  """Public names of the attention of a `JointBlock`."""
  names = {
    "image_out": f"{public}.to_out.0",
    "text_out": f"{public}.to_add_out",
  }
  for part in "qkv":
    names[f"image_{part}"] = f"{public}.to_{part}"
    names[f"text_{part}"] = f"{public}.add_{part}_proj"
  for part in "qk" if qk_norm else "":
    names[f"image_{part}norm"] = f"{public}.norm_{part}"
    names[f"text_{part}norm"] = f"{public}.norm_added_{part}"
  return names
