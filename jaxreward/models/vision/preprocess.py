"""Preprocessing of images in [0, 1] for a tower, inside jit.

Towers were trained on 8-bit images resized by Pillow, so values are rounded to
eight bits where Pillow does; the gradient is straight-through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models import hub
from jaxreward.types import Array, ArrayLike

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_SIDE = 8  # pixels per side of the images in `small_features`
_METHODS = {2: "linear", 3: "cubic"}  # Pillow's codes


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Preprocessing of images for a tower.

  Attributes:
    size: height and width of the result.
    edge: length of the shorter side before the centre crop; 0 resizes both
      sides to `size` without a crop.
    method: "cubic" or "linear", antialiased as Pillow does it.
    mean: per channel, subtracted.
    std: per channel, divided by.
    padded: resize the longer side to `size` and pad with black, instead of
      cropping.
    levels: round to eight bits after resizing, as Pillow does; torchvision's
      resize of arrays does not.
    nearest: round the offset of the crop to the nearest pixel, halves to even,
      as torchvision does; transformers rounds down.
  """

  size: tuple[int, int]
  edge: int = 0
  method: str = "cubic"
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD
  padded: bool = False
  levels: bool = True
  nearest: bool = False

  def __call__(
    self, images: Float[ArrayLike, "B H W 3"]
  ) -> Float[Array, "B h w 3"]:
    """Resized, cropped or padded, and normalised images."""
    x = rounded(images)
    to = lambda size: resize(x, size, self.method, levels=self.levels)
    if self.padded:
      x = _on_black(to(longer_to(self.size, *x.shape[1:3])), self.size)
    elif self.edge:
      x = to(shorter_to(self.edge, *x.shape[1:3]))
      x = _middle(x, self.size, self.nearest)
    else:
      x = to(self.size)
    return (x - jnp.asarray(self.mean)) / jnp.asarray(self.std)


def of_record(
  record: Mapping[str, Any],
  default: Preprocess,
  of: str = "preprocessor_config.json",
) -> Preprocess:
  """Reads a `preprocessor_config.json`; `default` gives missing fields.

  Args:
    record: the file.
    default: for missing fields. Its padding has precedence: the file describes
      transformers, which does not pad.
    of: where it lies, for errors.

  Raises:
    UserError: an unsupported size, method, mean or deviation.
  """
  if default.padded:
    fields = ("crop_size", "image_mean", "image_std")
    record = {name: record[name] for name in fields if name in record}
  is_cropped = bool(
    record.get("do_center_crop", default.edge > 0 or default.padded)
  )
  record = {name: x for name, x in record.items() if x is not None}
  size = record.get("size") or {}
  edge, final = 0, default.size
  if is_cropped:
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    edge = default.edge if edge is None else edge
    if type(edge) is not int or edge < 0:
      expected = 'pixels or {"shortest_edge": pixels}'
      raise hub.misfit(of, "size", size, expected)
    if "crop_size" in record:
      final = _pair(record, "crop_size", of)
  elif not isinstance(size, dict) or "height" in size:
    final = _pair(record, "size", of)
  method = record.get("resample", 0)
  if type(method) is not int:
    raise hub.misfit(of, "resample", method, "a number of Pillow's methods")
  return dataclasses.replace(
    default,
    size=final,
    edge=edge,
    method=_METHODS.get(method, default.method),
    mean=_channels(record, "image_mean", default.mean, of),
    std=_channels(record, "image_std", default.std, of),
  )


_FITS = ("shortest", "longest", "squash")


def of_open_clip(
  record: Mapping[str, Any], default: Preprocess, of: str
) -> Preprocess:
  """Reads "preprocess_cfg" of an `open_clip_config.json`.

  Args:
    record: the file.
    default: for missing fields, and for the size, which the tower determines.
      Its padding has precedence.
    of: where it lies, for errors.

  Raises:
    UserError: another resize mode, or an unsupported method, mean or deviation.
  """
  cfg = hub.field(record, "preprocess_cfg", dict, of=of, default={})
  of = f"{of}: preprocess_cfg"
  cfg = {name: x for name, x in cfg.items() if x is not None}
  preprocess = dataclasses.replace(
    default,
    mean=_channels(cfg, "mean", default.mean, of),
    std=_channels(cfg, "std", default.std, of),
  )
  if default.padded:
    return preprocess
  fit, method = cfg.get("resize_mode", _FITS[0]), cfg.get("interpolation")
  if fit not in _FITS:
    raise hub.misfit(of, "resize_mode", fit, f"one of {', '.join(_FITS)}")
  return dataclasses.replace(
    preprocess,
    edge=default.edge if fit == "shortest" else 0,
    padded=fit == "longest",
    method="linear" if method == "bilinear" else "cubic",
  )


def _pair(record: Mapping[str, Any], name: str, of: str) -> tuple[int, int]:
  value = record[name]
  sides = value if isinstance(value, dict) else dict(height=value, width=value)
  height, width = (sides.get(side) for side in ("height", "width"))
  if isinstance(height, int) and isinstance(width, int):
    if min(height, width) > 0:
      return height, width
  expected = 'pixels or {"height": pixels, "width": pixels}'
  raise hub.misfit(of, name, value, expected)


def _channels(
  record: Mapping[str, Any], name: str, default: tuple[float, ...], of: str
) -> tuple[float, ...]:
  value = record.get(name, default)
  is_list = isinstance(value, list | tuple) and len(value) == 3
  if not is_list or not all(type(x) in (int, float) for x in value):
    raise hub.misfit(of, name, value, "three numbers")
  return tuple(value)


def read(weights: str, default: Preprocess) -> Preprocess:
  """The `preprocessor_config.json` beside the weights, or the default.

  Raises:
    UserError: it makes images of another size than the default's; see
      `of_record`.
  """
  record = hub.read_config(weights, "preprocessor_config.json")
  preprocess = of_record(
    record, default, f"{weights}: preprocessor_config.json"
  )
  if preprocess.size != default.size:
    raise UserError(
      f"{weights}: preprocessor_config.json makes pictures of {preprocess.size}, the"
      f" tower takes {default.size}"
    )
  return preprocess


def rounded(x: Float[ArrayLike, "*N"]) -> Float[Array, "*N"]:
  """The nearest of 256 levels in [0, 1]; the gradient is that of a clip."""
  x = jnp.clip(jnp.asarray(x, jnp.float32), 0.0, 1.0)
  return x + jax.lax.stop_gradient(jnp.floor(x * 255 + 0.5) / 255 - x)


def resize(
  x: Float[Array, "B H W C"],
  size: tuple[int, int],
  method: str = "cubic",
  *,
  levels: bool = True,
) -> Float[Array, "B h w C"]:
  """Resizes as Pillow does: columns, then rows, rounded after each.

  Args:
    x: in [0, 1].
    size: height and width of the result.
    method: of `jax.image.resize`: "cubic", "linear" or "lanczos3".
    levels: False skips the rounding, and with it the clip to [0, 1].
  """
  b, h, w, c = x.shape
  if w != size[1]:
    x = jax.image.resize(x, (b, h, size[1], c), method)
    x = rounded(x) if levels else x
  if h != size[0]:
    x = jax.image.resize(x, (b, size[0], size[1], c), method)
    x = rounded(x) if levels else x
  return x


def shorter_to(edge: int, height: int, width: int) -> tuple[int, int]:
  """The size whose shorter side is `edge`, the other rounded down."""
  if height <= width:
    return edge, int(edge * width / height)
  return int(edge * height / width), edge


def longer_to(
  size: tuple[int, int], height: int, width: int
) -> tuple[int, int]:
  """The largest size of the image that fits into another, halves to even."""
  scale = min(size[0] / height, size[1] / width)
  return max(round(height * scale), 1), max(round(width * scale), 1)


def fitted(
  x: Float[Array, "B H W C"], size: tuple[int, int]
) -> Float[Array, "B h w C"]:
  """The largest centre crop of the target aspect ratio, resized to `size`."""
  height, width = x.shape[1:3]
  if height * size[1] > width * size[0]:
    part = max(round(width * size[0] / size[1]), 1), width
  else:
    part = height, max(round(height * size[1] / size[0]), 1)
  return resize(_middle(x, part), size)


def _on_black(x: Array, size: tuple[int, int]) -> Array:
  """The image centred on black; odd padding is larger at the end."""
  rests = [whole - side for whole, side in zip(size, x.shape[1:3], strict=True)]
  around = [(rest // 2, rest - rest // 2) for rest in rests]
  return jnp.pad(x, ((0, 0), *around, (0, 0)))


def _middle(x: Array, size: tuple[int, int], nearest: bool = False) -> Array:
  rests = [side - part for side, part in zip(x.shape[1:3], size, strict=True)]
  if min(rests) < 0:
    raise UserError(
      f"a middle of {size[0]} x {size[1]} pixels cannot be cut from"
      f" {x.shape[1]} x {x.shape[2]}; the tower's preprocessing is inconsistent"
    )
  top, left = (round(n / 2) if nearest else n // 2 for n in rests)
  return x[:, top : top + size[0], left : left + size[1]]


def small_features(
  images: Float[ArrayLike, "P G H W C"],
) -> Float[Array, "P G D"]:
  """Images reduced to 8 x 8 pixels, minus their mean, with unit norm."""
  images = jnp.asarray(images)
  images = jnp.where(jnp.isfinite(images), images, 0.0)
  shape = (*images.shape[:2], _SIDE, _SIDE, images.shape[-1])
  x = jax.image.resize(images, shape, "linear")
  x = x.reshape(*shape[:2], -1)
  x = x - x.mean(-1, keepdims=True)
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
