"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

Wang et al. 2024, https://arxiv.org/abs/2409.12191; Bai et al. 2025,
https://arxiv.org/abs/2502.13923 and https://arxiv.org/abs/2511.21631. Four
neighbouring patches of two frames become one token of the language model.
Patches attend only within their frame of a video, and in most layers of
Qwen2.5-VL only within a square window of the image; windows over the edge are
padded with masked patches. Qwen3-VL adds a position table, interpolated to the
size of the image, and also outputs features of inner layers. A batch of images
of different sizes is one array of patches, with positions and masks as arrays:
one program runs them all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.models import attention
from jaxreward.models.vision import tower
from jaxreward.types import Array, ArrayLike

_EPS = 1e-6
MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclasses.dataclass(frozen=True)
class Vision:
  """Geometry of the tower.

  Attributes:
    width: features per patch.
    depth: layers.
    heads: attention heads; they divide `width`.
    mlp: hidden features of the MLP.
    out: features per token, those of the language model.
    patch: pixels per side of a patch.
    merge: patches per side of a token.
    frames: frames of a patch; a still image is repeated.
    window: pixels per side of a window; 0 for none.
    full: indices of the layers that attend over the whole image.
    theta: base of the rotary positions.
    model: one of `MODELS`.
    table: positions per side of the learned table; 0 for none.
    deep: indices of the layers whose outputs also go to the language model.
  """

  width: int
  depth: int
  heads: int
  mlp: int
  out: int
  patch: int = 14
  merge: int = 2
  frames: int = 2
  window: int = 112
  full: tuple[int, ...] = (7, 15, 23, 31)
  theta: float = 1e4
  model: str = "qwen2_5_vl"
  table: int = 0
  deep: tuple[int, ...] = ()

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens of an image of this size in pixels."""
    side = self.patch * self.merge
    return height // side, width // side

  @property
  def side(self) -> int:
    """Tokens per side of a window; 0 for none."""
    return self.window // self.patch // self.merge


def _second(out: int) -> Vision:
  return Vision(1280, 32, 16, 5120, out, window=0, full=(), model="qwen2_vl")


def _third(
  width: int, depth: int, mlp: int, out: int, deep: tuple[int, ...]
) -> Vision:
  return Vision(
    width, depth, 16, mlp, out, 16, window=0, full=(), model="qwen3_vl",
    table=48, deep=deep,
  )  # fmt: skip


SIZES = {
  "qwen2_vl_2b": _second(1536),
  "qwen2_vl_7b": _second(3584),
  "qwen2.5_vl_3b": Vision(1280, 32, 16, 3420, 2048),
  "qwen2.5_vl_7b": Vision(1280, 32, 16, 3420, 3584),
  "qwen3_vl_2b": _third(1024, 24, 4096, 2048, (5, 11, 17)),
  "qwen3_vl_4b": _third(1024, 24, 4096, 2560, (5, 11, 17)),
  "qwen3_vl_8b": _third(1152, 27, 4304, 4096, (8, 16, 24)),
}

SHARDING_RULES: tower.Rules = (
  (r"^patch_in/kernel$", (None, "fsdp")),
  (r"^place$", (None, "fsdp")),
  (r"^layers/(qkv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^layers/(out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^merger/up/kernel$", ("fsdp", "tensor")),
  (r"^merger/down/kernel$", ("tensor", "fsdp")),
  (r"^deep/up/kernel$", (None, "fsdp", "tensor")),
  (r"^deep/down/kernel$", (None, "tensor", "fsdp")),
  (r"^.*/(bias|scale)$", ()),
)


@flax.struct.dataclass
class Patches:
  """Patches of R frames, each padded to N; n = N / merge ** 2 tokens.

  Attributes:
    pixels: normalised, [R, N, 3 * frames * patch ** 2], those of a token side
      by side and, where there are windows, those of a window too.
    places: row and column of each, [#R, N, 2].
    sizes: rows and columns of patches, [#R, 2].
    mask: False for padding, [#R, N].
    order: of the tokens, row by row, within the patches, [#R, n].
  """

  pixels: ArrayLike
  places: ArrayLike
  sizes: ArrayLike
  mask: ArrayLike
  order: ArrayLike


def windows(
  rows: int, columns: int, side: int
) -> tuple[Int[np.ndarray, "W S"], Bool[np.ndarray, "W S"]]:
  """Splits a grid of tokens into windows, row by row.

  Args:
    rows: of tokens.
    columns: of tokens.
    side: tokens per side of a window; 0 for windows of one token.

  Returns:
    (index of each token of a window, whether it exists); S is side ** 2, and
    the index of a position over the edge is 0.
  """
  if not side:
    index = np.arange(rows * columns)[:, None]
    return index, np.ones(index.shape, bool)
  window_rows, window_columns = -(-rows // side), -(-columns // side)
  index = np.full((window_rows * side, window_columns * side), -1)
  index[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
  index = index.reshape(window_rows, side, window_columns, side).swapaxes(1, 2)
  index = index.reshape(window_rows * window_columns, -1)
  return np.maximum(index, 0), index >= 0


def cut(config: Vision, images: Float[ArrayLike, "R T H W 3"]) -> Patches:
  """Patches of images of one size whose sides are whole tokens.

  Args:
    config: geometry.
    images: normalised; T frames each, or one that is repeated. NumPy arrays
      stay NumPy arrays.
  """
  c, (r, t, height, width, _) = config, images.shape
  (rows, columns), m = c.grid(height, width), c.merge
  if t == 1:
    images = images[:, np.zeros(c.frames, int)]
  x = images.reshape(r, c.frames, rows, m, c.patch, columns, m, c.patch, 3)
  x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(r, rows * columns, -1)
  index, is_real = windows(rows, columns, c.side)
  index, is_real = index.ravel(), is_real.ravel()
  places = np.indices((rows * m, columns * m)).reshape(2, rows, m, columns, m)
  places = places.transpose(1, 3, 2, 4, 0).reshape(rows * columns, -1)
  return Patches(
    x[:, index].reshape(r, len(index) * m * m, -1),
    places[index].reshape(1, -1, 2).astype(np.int32),
    np.array([[rows * m, columns * m]], np.int32),
    np.repeat(is_real, m * m)[None],
    np.flatnonzero(is_real)[np.argsort(index[is_real])][None].astype(np.int32),
  )


class Layer(nn.Module):
  """Pre-norm attention and MLP with residuals."""

  config: Vision
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    carry: tuple[Array, Array | None],
    index: Array,
    angles: Array,
    mask: Array,
  ) -> tuple[tuple[Array, Array | None], None]:
    (x, deep), c = carry, self.config
    dense = lambda n, name: nn.Dense(n, dtype=self.dtype, name=name)
    h = _norm(c, self.dtype, "norm_1")(x)
    q, k, v = jnp.split(dense(3 * c.width, "qkv")(h), 3, -1)
    q, k = (tower.rotate(y, c.heads, angles) for y in (q, k))

    def attend(near: int) -> Array:
      heads_of = lambda y: y.reshape(-1, near, c.heads, c.width // c.heads)
      y = attention.attention(
        heads_of(q), heads_of(k), heads_of(v), mask.reshape(-1, near), "auto"
      )
      return y.reshape(x.shape)

    tokens = x.shape[1]
    if c.window:
      is_full = (index == np.asarray(c.full)).any()
      near = (c.side * c.merge) ** 2
      h = jax.lax.cond(is_full, lambda: attend(tokens), lambda: attend(near))
    else:
      h = attend(tokens)
    x = x + dense(c.width, "out")(h)
    h = _norm(c, self.dtype, "norm_2")(x)
    if c.model == "qwen2_5_vl":
      gate, h = jnp.split(dense(2 * c.mlp, "up")(h), 2, -1)
      h = jax.nn.silu(gate) * h
    else:
      name = "quick_gelu" if c.model == "qwen2_vl" else "gelu_tanh"
      h = tower.ACTIVATIONS[name](dense(c.mlp, "up")(h))
    x = x + dense(c.width, "down")(h)
    if deep is not None:
      is_deep = (index == np.asarray(c.deep))[:, None, None, None]
      deep = jnp.where(is_deep, x, deep)
    return (x, deep), None


def _norm(config: Vision, dtype: Any, name: str) -> nn.Module:
  if config.model == "qwen2_5_vl":
    return nn.RMSNorm(epsilon=_EPS, dtype=dtype, name=name)
  return tower.layer_norm(_EPS, dtype, name)


class Merger(nn.Module):
  """Patches of a token -> features of the language model."""

  config: Vision
  dtype: Any
  late: bool = False  # normalise tokens instead of patches

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    shape = (len(x), x.shape[1] // c.merge**2, c.merge**2 * c.width)
    x = x.reshape(shape) if self.late else x
    x = _norm(c, self.dtype, "norm")(x).reshape(shape)
    x = nn.Dense(shape[-1], dtype=self.dtype, name="up")(x)
    x = jax.nn.gelu(x, approximate=False)
    return nn.Dense(c.out, dtype=self.dtype, name="down")(x)


class VisionTower(nn.Module):
  """Patches, or images of one size -> tokens of the language model.

  Tokens run row by row of each image; those of padding are arbitrary.
  """

  config: Vision
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: Patches | Float[ArrayLike, "R H W 3"]
  ) -> tuple[Float[Array, "R N D"], Float[Array, "K R N D"] | None]:
    """(tokens, those of the inner layers `deep`)."""
    c = self.config
    if not isinstance(images, Patches):
      images = cut(c, jnp.asarray(images)[:, None])
    count, length = images.pixels.shape[:2]
    x = nn.Dense(
      c.width, use_bias=c.model == "qwen3_vl", dtype=self.dtype, name="patch_in"
    )(jnp.asarray(images.pixels, self.dtype))
    if c.table:
      x = x + self._places(images).astype(x.dtype)
    quarter = c.width // c.heads // 4
    frequency = c.theta ** (-np.arange(quarter) / quarter)
    angles = jnp.asarray(images.places)[..., None] * jnp.asarray(
      frequency, jnp.float32
    )
    angles = jnp.tile(angles.reshape(*angles.shape[:2], -1), 2)
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=c.depth,
    )
    deep = jnp.zeros((len(c.deep), *x.shape), x.dtype) if c.deep else None
    (x, deep), _ = layers(c, self.dtype, name="layers")(
      (x, deep),
      jnp.arange(c.depth),
      angles,
      jnp.broadcast_to(images.mask, (count, length)),
    )
    order = jnp.asarray(images.order)[..., None]
    x = Merger(c, self.dtype, name="merger")(x)
    x = jnp.take_along_axis(x, order, 1)
    if deep is not None:
      mergers = nn.vmap(
        Merger, variable_axes={"params": 0}, split_rngs={"params": True}
      )
      deep = mergers(c, self.dtype, True, name="deep")(deep)
      deep = jnp.take_along_axis(deep, order[None], 2)
    return x, deep

  def _places(self, patches: Patches) -> Float[Array, "#R N D"]:
    """The position table, interpolated bilinearly from corner to corner."""
    side = self.config.table
    table = self.param(
      "place", nn.initializers.normal(0.02), (side * side, self.config.width)
    )
    span = jnp.maximum(jnp.asarray(patches.sizes)[:, None] - 1, 1)
    where = jnp.asarray(patches.places, jnp.float32) * (side - 1) / span
    total = 0.0
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
      near = jnp.floor(where) + np.array(corner)
      weight = jnp.maximum(1 - jnp.abs(where - near), 0).prod(-1)
      row, column = jnp.moveaxis(jnp.clip(near, 0, side - 1), -1, 0)
      index = (row * side + column).astype(jnp.int32)
      total = total + weight[..., None] * jnp.take(table, index, 0)
    return jnp.asarray(total)
