"""The language models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, and Qwen3.

Wang et al. 2024, https://arxiv.org/abs/2409.12191; Bai et al. 2025,
https://arxiv.org/abs/2502.13923 and https://arxiv.org/abs/2511.21631; Yang et al.
2025, https://arxiv.org/abs/2505.09388. A causal
transformer with rotary positions, grouped-query attention and a gated MLP.
Positions have three axes, time, row and column: equal for text, a grid for
tokens of an image (`qwen_vision`). Qwen-Image reads prompts with that of
Qwen2.5-VL (`qwen_prompts`), Z-Image with Qwen3 (`qwen3_prompts`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.models import attention, sequence
from jaxreward.models.vision import qwen_vision, tower
from jaxreward.types import Array, ArrayLike


@dataclasses.dataclass(frozen=True)
class Qwen:
  """Geometry of a language model.

  Attributes:
    width: features per token.
    depth: layers.
    heads: attention heads of the queries.
    groups: heads of keys and values, each for heads / groups queries.
    mlp: hidden features of the gated MLP.
    vocabulary: token ids.
    theta: base of the rotary positions.
    eps: of the norms.
    sections: features of half a head that each position axis rotates.
    pad: id of the placeholder of an image token.
    head: features of a head.
    qwen3: queries and keys are normalised and have no bias, and the position
      axes are interleaved along a head.
    tied: the output head shares the token table.
    remat: layers are recomputed in the backward pass.
  """

  width: int
  depth: int
  heads: int
  groups: int
  mlp: int
  vocabulary: int = 152064
  theta: float = 1e6
  eps: float = 1e-6
  sections: tuple[int, ...] = (16, 24, 24)
  pad: int = 151655
  head: int = 128
  qwen3: bool = False
  tied: bool = False
  remat: bool = dataclasses.field(default=True, compare=False)

  @property
  def axes(self) -> Int[np.ndarray, "half"]:
    """The position axis by which each feature of half a head is rotated."""
    if not self.qwen3:
      return np.repeat(np.arange(3), self.sections)
    axes = np.zeros(self.head // 2, np.int64)
    for axis in (1, 2):
      axes[axis : 3 * self.sections[axis] : 3] = axis
    return axes


def _third(
  width: int, depth: int, heads: int, mlp: int, *, tied: bool = True
) -> Qwen:
  return Qwen(
    width, depth, heads, 8, mlp, 151936, 5e6, sections=(24, 20, 20),
    qwen3=True, tied=tied,
  )  # fmt: skip


SIZES = {
  "qwen2_vl_2b": Qwen(1536, 28, 12, 2, 8960, 151936, tied=True),
  "qwen2_vl_7b": Qwen(3584, 28, 28, 4, 18944),
  "qwen2.5_vl_3b": Qwen(2048, 36, 16, 2, 11008, 151936, tied=True),
  "qwen2.5_vl_7b": Qwen(3584, 28, 28, 4, 18944),
  "qwen3_vl_2b": _third(2048, 28, 16, 6144),
  "qwen3_vl_4b": _third(2560, 36, 32, 9728),
  "qwen3_vl_8b": _third(4096, 36, 32, 12288, tied=False),
}

SHARDING_RULES: tower.Rules = (
  (r"^token$", (None, "fsdp")),
  (r"^layers/(query|kv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^layers/(out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^layers/(query|kv)/bias$", ()),
  (r"^(layers/(norm_[12]|(query|key)_norm)|norm)/scale$", ()),
)
BOTH_SHARDING_RULES: tower.Rules = (
  *((p.replace("^", "^text/", 1), axes) for p, axes in SHARDING_RULES),
  *(
    (p.replace("^", "^vision/", 1), axes)
    for p, axes in qwen_vision.SHARDING_RULES
  ),
)
Cache = tuple[Array, Array]


@flax.struct.dataclass
class Past:
  """Keys and values of earlier tokens, in every layer.

  Attributes:
    prefix: of each row's prefix, [layers, B, P, groups, head].
    answers: of G answers to it, [layers, B, G, S, groups, head].
  """

  prefix: Cache
  answers: Cache


@flax.struct.dataclass
class View:
  """Positions and visibility of the tokens.

  Attributes:
    angles: of their rotation, [#B, N, head].
    deep: image features added to the first layers' outputs, [K, B, N, D].
    mask: of a prefix's tokens, [B, P], or of these.
    start: position of the first token within its answer.
  """

  angles: Array
  deep: Array | None = None
  mask: Any = None
  start: Any = 0


class Layer(nn.Module):
  """Pre-norm attention and gated MLP with residuals.

  Attributes:
    config: geometry.
    dtype: of the products.
    keep: also return keys and values.
  """

  config: Qwen
  dtype: Any = jnp.float32
  keep: bool = False

  @nn.compact
  def __call__(
    self, x: Array, index: Array, past: Past | None, view: View
  ) -> tuple[Array, Cache | None]:
    c, dtype = self.config, self.dtype
    plain = lambda n, name: nn.Dense(n, use_bias=False, dtype=dtype, name=name)
    biased = lambda n, name: nn.Dense(
      n, use_bias=not c.qwen3, dtype=dtype, name=name
    )
    h = self._norm("norm_1")(x)
    q = self._turned(biased(c.heads * c.head, "query")(h), "query", view.angles)
    k, v = jnp.split(biased(2 * c.groups * c.head, "kv")(h), 2, -1)
    k = self._turned(k, "key", view.angles)
    v = v.reshape(k.shape)
    if past is None:
      k, v = sequence.heads(k), sequence.heads(v)
      h = attention.attention(q, k, v, view.mask, "auto", causal=True)
    else:
      shape = (len(x), past.answers[0].shape[1], -1)
      q = q.reshape(*shape, *q.shape[2:])
      start = (0, 0, view.start, 0, 0)
      k, v = (
        jax.lax.dynamic_update_slice(
          old, new.reshape(*shape, *new.shape[2:]), start
        )
        for old, new in zip(past.answers, (k, v), strict=True)
      )
      h = attention.after_prefix(q, past.prefix, view.mask, (k, v), view.start)
    x = x + plain(c.width, "out")(h)
    gate, h = jnp.split(plain(2 * c.mlp, "up")(self._norm("norm_2")(x)), 2, -1)
    x = x + plain(c.width, "down")(jax.nn.silu(gate) * h)
    if view.deep is not None:
      x = x + jnp.take(view.deep, index, 0, mode="fill", fill_value=0)
    self.sow("intermediates", "states", x)
    return x, (k, v) if self.keep or past is not None else None

  def _norm(self, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(epsilon=self.config.eps, dtype=self.dtype, name=name)

  def _turned(self, x: Array, name: str, angles: Array) -> Array:
    """Heads [B, N, H, D], normalised and rotated."""
    x = x.reshape(*x.shape[:2], -1, self.config.head)
    if self.config.qwen3:
      x = self._norm(f"{name}_norm")(x)
    heads = x.shape[2]
    return tower.rotate(x.reshape(*x.shape[:2], -1), heads, angles).reshape(
      x.shape
    )


@flax.struct.dataclass
class Images:
  """Image tokens and which of a prompt's tokens they replace.

  Attributes:
    features: [M, D].
    source: [#B, L], the row of `features` that replaces a token; -1 for none.
    deep: further features added to the first layers' outputs, [K, M, D].
  """

  features: ArrayLike
  source: ArrayLike
  deep: ArrayLike | None = None


class QwenText(nn.Module):
  """Token ids, padded on the right, -> hidden states after the last norm.

  The outputs of all layers, before that norm, are its "intermediates".

  Attributes:
    config: geometry.
    dtype: of the products.
    keep: `cached` also returns keys and values of tokens without a past.
  """

  config: Qwen
  dtype: Any = jnp.float32
  keep: bool = False

  def setup(self):
    c = self.config
    self.token = self.param(
      "token", nn.initializers.normal(0.02), (c.vocabulary, c.width)
    )
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False) if c.remat else Layer,
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True},
      in_axes=(0, 0, nn.broadcast),
      length=c.depth,
    )
    self.layers = layers(c, self.dtype, self.keep)
    self.norm = nn.RMSNorm(epsilon=c.eps, dtype=self.dtype)

  def __call__(
    self,
    tokens: Int[ArrayLike, "B L"],
    places: Int[ArrayLike, "#B L 3"] | None = None,
    images: Images | None = None,
  ) -> Float[Array, "B L D"]:
    """Hidden states; see `cached`."""
    return self.cached(tokens, places, images)[0]

  def cached(
    self,
    tokens: Int[ArrayLike, "B L"],
    places: Int[ArrayLike, "#B L 3"] | None = None,
    images: Images | None = None,
    past: Past | None = None,
    mask: Bool[ArrayLike, "B P"] | None = None,
    start: ArrayLike | int = 0,
  ) -> tuple[Float[Array, "B L D"], Cache | None]:
    """(hidden states, keys and values of every layer).

    Args:
      tokens: ids; with a past, those of its answers, one answer after another.
      places: from `rope_places`; those of plain text if None.
      images: replace some of the tokens.
      past: also attended to; the tokens' own are added to its answers.
      mask: of the past's prefix; without a past, of the tokens.
      start: position of the first token within its answer.
    """
    c = self.config
    x = jnp.take(self.token, tokens, 0).astype(self.dtype)
    if places is None:
      places = np.repeat(np.arange(tokens.shape[1])[None, :, None], 3, 2)
    frequency = c.theta ** -jnp.arange(0, 1, 2 / c.head)
    angles = jnp.tile(jnp.asarray(places)[..., c.axes] * frequency, 2)
    deep = None
    if images is not None:
      is_image = jnp.asarray(images.source)[..., None] >= 0
      take = lambda table, axis: jnp.take(
        jnp.asarray(table, self.dtype), images.source, axis, mode="clip"
      )
      x = jnp.where(is_image, take(images.features, 0), x)
      if images.deep is not None:
        deep = jnp.where(is_image, take(images.deep, 1), 0)
    view = View(angles, deep, mask, start)
    x, cache = self.layers(x, jnp.arange(c.depth), past, view)
    return self.norm(x), cache


def rope_places(
  length: int,
  starts: Sequence[int],
  grids: Sequence[tuple[int, ...]],
  intervals: Sequence[float] = (),
) -> Int[np.ndarray, "{length} 3"]:
  """(time, row, column) of text and image tokens.

  An image has one time; text after it continues beyond its longest axis, times
  of a video included, as in the paper of Qwen2-VL. (transformers 5 continues
  beyond rows and columns, also after a video that lasts longer.)

  Args:
    length: number of tokens.
    starts: of the images, in order; empty for text alone.
    grids: rows and columns of each image's tokens; frames, rows and columns of
      a video's.
    intervals: positions from one frame to the next, 1 if empty.
  """
  parts: list[np.ndarray] = []
  token = place = 0  # next token, next position

  def words(end: int) -> None:
    count = end - token
    parts.append(np.repeat(np.arange(place, place + count)[:, None], 3, 1))

  for i, (start, grid) in enumerate(zip(starts, grids, strict=True)):
    words(start)
    place += start - token
    places = np.indices((1, *grid)[-3:]).reshape(3, -1).T
    if intervals:
      places[:, 0] = np.floor(places[:, 0] * intervals[i])
    parts.append(places + place)
    token, place = start + math.prod(grid), place + places.max() + 1
  words(length)
  return np.concatenate(parts)
