"""The vision tower of Qwen2.5-VL, and its image preprocessing.

Bai et al. 2025, https://arxiv.org/abs/2502.13923. Most layers attend within
square windows of the image and a few over all of it; four neighbouring
patches become one token of the language model. Images of one size share one
program: window tables are made on the host, and windows over the edge are
padded with masked positions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Rule, conv, linear, norm
from jaxreward.models.vision import tower
from jaxreward.types import Array, ArrayLike, Params

AREA = 1024 * 1024  # target pixels of Qwen-Image-Edit's pipeline
PLUS_AREA = 384 * 384  # and that of its Plus form
_ASPECT = 200  # longest to shortest side, at most
_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Vision:
  """Geometry of the tower.

  Attributes:
    width: features per patch.
    depth: layers.
    heads: attention heads; they divide `width`.
    mlp: hidden features of the gated MLP.
    out: features per token, those of the language model.
    patch: pixels per side of a patch.
    merge: patches per side of a token.
    frames: copies of a still image in a patch.
    window: pixels per side of a window.
    full: indices of the layers that attend over the whole image.
    theta: base of the rotary positions.
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

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens of an image of this size in pixels."""
    side = self.patch * self.merge
    return height // side, width // side


SIZES = {
  "qwen2.5_vl_3b": Vision(1280, 32, 16, 3420, 2048),
  "qwen2.5_vl_7b": Vision(1280, 32, 16, 3420, 3584),
}

SHARDING_RULES: tower.Rules = (
  (r"^patch_in/kernel$", (None, None, None, None, "fsdp")),
  (r"^layers/(qkv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^layers/(out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^layers/.*(bias|scale)$", ()),
  (r"^merger_norm/scale$", ()),
  (r"^merger_up/kernel$", ("fsdp", "tensor")),
  (r"^merger_down/kernel$", ("tensor", "fsdp")),
  (r"^merger_(up|down)/bias$", ()),
)


def windows(
  rows: int, columns: int, side: int
) -> tuple[Int[np.ndarray, "W S"], Bool[np.ndarray, "W S"]]:
  """Splits a grid of tokens into windows, row by row.

  Args:
    rows: of tokens.
    columns: of tokens.
    side: tokens per side of a window.

  Returns:
    (index of each token of a window, whether it exists); S is side ** 2, and
    the index of a position over the edge is 0.
  """
  window_rows, window_columns = -(-rows // side), -(-columns // side)
  index = np.full((window_rows * side, window_columns * side), -1)
  index[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
  index = index.reshape(window_rows, side, window_columns, side).swapaxes(1, 2)
  index = index.reshape(window_rows * window_columns, -1)
  return np.maximum(index, 0), index >= 0


class Layer(nn.Module):
  """Pre-norm attention and gated MLP with residuals."""

  config: Vision
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, is_full: Array, angles: Array, real: Array
  ) -> tuple[Array, None]:
    c, dtype = self.config, self.dtype
    dense = lambda n, name: nn.Dense(n, dtype=dtype, name=name)
    rms_norm = lambda name: nn.RMSNorm(epsilon=_EPS, dtype=dtype, name=name)
    q, k, v = jnp.split(dense(3 * c.width, "qkv")(rms_norm("norm_1")(x)), 3, -1)
    q, k = (tower.rotate(y, c.heads, angles) for y in (q, k))
    full_shape = (1, real.size)

    def attend(shape: tuple[int, ...]) -> Array:
      bias = jnp.where(real.reshape(shape), 0.0, -jnp.inf)[:, None, None]
      bias = jnp.tile(bias, (len(x), 1, 1, 1))
      near = lambda y: y.reshape(-1, shape[1], c.width)
      return tower.attend(near(q), near(k), near(v), c.heads, bias).reshape(
        x.shape
      )

    h = jax.lax.cond(
      is_full, lambda: attend(full_shape), lambda: attend(real.shape)
    )
    x = x + dense(c.width, "out")(h)
    gate, h = jnp.split(dense(2 * c.mlp, "up")(rms_norm("norm_2")(x)), 2, -1)
    return x + dense(c.width, "down")(jax.nn.silu(gate) * h), None


class VisionTower(nn.Module):
  """Normalised images -> tokens of the language model, row by row.

  Sides of the images are multiples of `patch * merge`.
  """

  config: Vision
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: Float[ArrayLike, "B H W 3"]
  ) -> Float[Array, "B N D"]:
    c, count = self.config, images.shape[0]
    rows, columns = c.grid(*images.shape[1:3])
    window = (c.frames, c.patch, c.patch)
    frames = jnp.repeat(jnp.asarray(images)[:, None], c.frames, 1)
    x = nn.Conv(
      c.width, window, window, "VALID", use_bias=False, dtype=self.dtype,
      name="patch_in",
    )(frames)  # fmt: skip
    index, real = windows(rows, columns, c.window // c.patch // c.merge)
    places = np.indices((rows * c.merge, columns * c.merge))
    places = self._squares(np.moveaxis(places, 0, -1)[None])[0, index.ravel()]
    quarter = c.width // c.heads // 4
    frequency = c.theta ** (-np.arange(quarter) / quarter)
    angles = places.reshape(-1, 2, 1) * frequency
    angles = np.tile(angles.reshape(len(angles), -1), 2)[None]
    x = self._squares(x[:, 0])[:, index.ravel()]
    x = x.reshape(count, -1, c.width)
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=c.depth,
    )
    x, _ = layers(c, self.dtype, name="layers")(
      x,
      jnp.asarray(np.isin(np.arange(c.depth), c.full)),
      jnp.asarray(angles, jnp.float32),
      jnp.asarray(np.repeat(real, c.merge**2, 1)),
    )
    x = nn.RMSNorm(epsilon=_EPS, dtype=self.dtype, name="merger_norm")(x)
    back = np.flatnonzero(real)[np.argsort(index[real])]
    x = x.reshape(count, real.size, -1)[:, back]
    x = nn.Dense(x.shape[-1], dtype=self.dtype, name="merger_up")(x)
    x = jax.nn.gelu(x, approximate=False)
    return nn.Dense(c.out, dtype=self.dtype, name="merger_down")(x)

  def _squares(self, x: Any) -> Any:
    """Patches [B, h, w, F] by the token they become, [B, N, merge ** 2, F]."""
    (b, h, w, f), m = x.shape, self.config.merge
    x = x.reshape(b, h // m, m, w // m, m, f).swapaxes(2, 3)
    return x.reshape(b, -1, m * m, f)


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
  """Preprocessing of images for the tower, as in Qwen-Image-Edit's pipeline.

  Attributes:
    area: approximate pixels after the first resize.
    factor: both sides are then resized to multiples of it.
    least: pixels after that, at least.
    most: pixels after that, at most.
    mean: per channel, subtracted.
    std: per channel, divided by.
  """

  area: int = AREA
  factor: int = 28
  least: int = 56 * 56
  most: int = 28 * 28 * 1280
  mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
  std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

  def sizes(
    self, height: int, width: int
  ) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) after the pipeline's resize and after the processor's.

    Raises:
      UserError: an image that is too elongated, or an area too small for it.
    """
    ratio = width / height
    new_width = math.sqrt(self.area * ratio)
    resized = round(new_width / ratio / 32) * 32, round(new_width / 32) * 32
    if min(resized) < 1 or max(resized) > _ASPECT * min(resized):
      raise UserError(
        f"a picture of {height} x {width} pixels cannot be brought to"
        f" config.text_encoder.area={self.area} pixels: it is too long, or the"
        " area too small"
      )
    return resized, smart_size(*resized, self.factor, self.least, self.most)

  def __call__(
    self, images: Float[ArrayLike, "B H W 3"]
  ) -> Float[np.ndarray, "B h w 3"]:
    """Images in [0, 1], as 8-bit images, resized and normalised on the host."""
    resized, final = self.sizes(*images.shape[1:3])
    filters = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
    rows = []
    for pixels in np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8):
      image = Image.fromarray(pixels)
      for (h, w), method in zip((resized, final), filters, strict=True):
        image = image.resize((w, h), method)
      rows.append(np.asarray(image, np.float32))
    mean, std = (np.asarray(x, np.float32) for x in (self.mean, self.std))
    return (np.stack(rows) / np.float32(255) - mean) / std


def smart_size(
  height: int, width: int, factor: int, least: int, most: int
) -> tuple[int, int]:
  """The processor's (height, width): multiples of `factor`, an area in range."""
  new_height, new_width = (
    round(side / factor) * factor for side in (height, width)
  )
  if new_height * new_width > most:
    scale = math.sqrt(height * width / most)
    fit = lambda side: max(factor, math.floor(side / scale / factor) * factor)
  elif new_height * new_width < least:
    scale = math.sqrt(least / (height * width))
    fit = lambda side: math.ceil(side * scale / factor) * factor
  else:
    return new_height, new_width
  return fit(height), fit(width)


def processor_of(
  record: Mapping[str, Any], config: Vision, area: int = AREA
) -> ImageProcessor:
  """Reads a `preprocessor_config.json`, with defaults for missing fields.

  Raises:
    UserError: preprocessing that `ImageProcessor` does not support.
  """
  plain = ImageProcessor(area)
  steps = ("convert_rgb", "normalize", "rescale", "resize")
  known = fields.Fields(
    read=("image_mean", "image_std", "max_pixels", "min_pixels", "size"),
    fixed={
      **{f"do_{step}": (True,) for step in steps},
      "do_center_crop": (None, False),
      "merge_size": (config.merge,),
      "patch_size": (config.patch,),
      "resample": (3,),  # bicubic
      "rescale_factor": (1 / 255,),
      "temporal_patch_size": (config.frames,),
    },
    unread=(
      "crop_size", "data_format", "default_to_square", "device",
      "disable_grouping", "image_processor_type", "input_data_format",
      "processor_class", "return_tensors",
    ),
  )  # fmt: skip
  fields.check(record, known, of="preprocessor_config.json")
  size = record.get("size") or {}
  return ImageProcessor(
    area,
    config.patch * config.merge,
    record.get("min_pixels") or size.get("shortest_edge", plain.least),
    record.get("max_pixels") or size.get("longest_edge", plain.most),
    tuple(record.get("image_mean", plain.mean)),
    tuple(record.get("image_std", plain.std)),
  )


def rules_of(config: Vision, prefix: str = "visual.") -> tuple[Rule, ...]:
  """Table of public names; new files say "model.visual."."""
  layers, at = range(config.depth), f"{prefix}blocks.{{}}"
  return (
    Rule("", "lm_head.weight"),
    Rule("", "model.[!v]*"),
    *conv("patch_in", f"{prefix}patch_embed.proj", bias=False),
    *norm("layers/norm_1", f"{at}.norm1", layers, bias=False),
    *linear("layers/qkv", f"{at}.attn.qkv", layers),
    *linear("layers/out", f"{at}.attn.proj", layers),
    *norm("layers/norm_2", f"{at}.norm2", layers, bias=False),
    *linear(
      "layers/up", tuple(f"{at}.mlp.{x}_proj" for x in ("gate", "up")), layers
    ),
    *linear("layers/down", f"{at}.mlp.down_proj", layers),
    *norm("merger_norm", f"{prefix}merger.ln_q", bias=False),
    *linear("merger_up", f"{prefix}merger.mlp.0"),
    *linear("merger_down", f"{prefix}merger.mlp.2"),
  )


_FIELDS = fields.Fields(
  read=(
    "hidden_size", "depth", "num_heads", "intermediate_size",
    "out_hidden_size", "patch_size", "spatial_merge_size",
    "temporal_patch_size", "window_size", "fullatt_block_indexes",
    "rope_parameters",
  ),
  fixed={"hidden_act": ("silu",), "in_channels": (3,), "in_chans": (3,)},
  unread=(
    *fields.TRANSFORMERS, "rope_theta", "spatial_patch_size",
    "tokens_per_second",  # of videos
  ),
)  # fmt: skip
_ROPE_FIELDS = fields.Fields(
  read=("rope_theta",), fixed={"rope_type": ("default", "axial")}
)


def config_of(record: Mapping[str, Any]) -> Vision:
  """Geometry from the `vision_config` of a `config.json`.

  Raises:
    UserError: it is missing, or has an invalid size.
  """
  if not record.get("vision_config"):
    raise UserError(
      "config.json describes no vision tower (vision_config), with which"
      " Qwen2.5-VL reads pictures"
    )
  vision = hub.field(record, "vision_config", dict, of="config.json")
  of = "config.json: vision_config"
  fields.check(vision, _FIELDS, of=of)
  count = functools.partial(hub.field, vision, kind=int, of=of)
  rope = vision.get("rope_parameters") or {}
  fields.check(rope, _ROPE_FIELDS, of=f"{of}: rope_parameters")
  return Vision(
    count("hidden_size"),
    count("depth"),
    count("num_heads"),
    count("intermediate_size"),
    count("out_hidden_size"),
    count("patch_size", default=14),
    count("spatial_merge_size", default=2),
    count("temporal_patch_size", default=2),
    count("window_size", default=112),
    tuple(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
    float(rope.get("rope_theta", 1e4)),
  )


def shapes(config: Vision, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  side = config.patch * config.merge
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  variables = jax.eval_shape(
    VisionTower(config).init, jax.random.key(0), images
  )
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Vision, Params]:
  """(architecture, parameters) of a public checkpoint's vision tower.

  Raises:
    UserError: the checkpoint has none; see `config_of` and
      `convert.load_params`.
  """
  config = config_of(fields.read(spec))
  candidates = "visual.", "model.visual."
  tensors = hub.open_weights(spec)
  prefixes = [
    p for p in candidates if any(name.startswith(p) for name in tensors)
  ]
  if not prefixes:
    raise UserError(
      f"{spec} holds no vision tower (visual.*), with which Qwen2.5-VL reads"
      " pictures; take weights of both towers"
    )
  rules = rules_of(config, prefixes[0])
  return config, convert.load_params(spec, rules, shapes(config, dtype))
