"""Preprocessing of images for the Qwen vision-language models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.models import fields
from jaxreward.models.vision.qwen_vision import Vision
from jaxreward.types import ArrayLike

AREA = 1024 * 1024  # target pixels of Qwen-Image-Edit's pipeline
PLUS_AREA = 384 * 384  # and that of its Plus form
_ASPECT = 200  # longest to shortest side, at most


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
  """Preprocessing of images for the tower, as in the public processors.

  Attributes:
    area: approximate pixels after a first resize, of Qwen-Image-Edit's
      pipeline; None for no such resize.
    factor: both sides are then resized to multiples of it.
    least: minimum number of pixels after that.
    most: maximum number of pixels after that.
    mean: per channel, subtracted.
    std: per channel, divided by.
  """

  area: int | None = AREA
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
    if self.area is None:
      if max(height, width) > _ASPECT * min(height, width):
        raise UserError(
          f"a picture of {height} x {width} pixels is too long for the model:"
          f" one side is more than {_ASPECT} times the other"
        )
      size = height, width
      return size, smart_size(*size, self.factor, self.least, self.most)
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
        image = image.resize((w, h), method)  # of the same size: unchanged
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
  record: Mapping[str, Any], config: Vision, area: int | None = AREA
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
