"""Image files as float32 arrays in [0, 1]."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from jaxreward import processes
from jaxreward.errors import UserError, one_line

# Modes that become RGB without losing or inventing anything.
MODES = ("RGB", "L", "1", "P", "RGBA", "LA")
_EXCHANGED = 2**28  # bytes that a device holds while pictures are exchanged


def _to_rgb(image: Image.Image, path: os.PathLike[str] | str) -> Image.Image:
  if image.mode not in MODES:
    raise UserError(
      f"{path}: images of mode {image.mode} are not read; convert it to 8-bit"
      " RGB"
    )
  if "A" in image.mode or "transparency" in image.info:
    alpha = image.convert("RGBA").getchannel("A")
    if np.asarray(alpha).min() < 255:
      raise UserError(
        f"{path}: the image is partly transparent; lay it on a background"
        " and save it as RGB"
      )
  return image.convert("RGB")


def _fit(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
  """The largest centred part with the wanted aspect ratio, resampled."""
  height, width = (size, size) if isinstance(size, int) else size
  if image.size == (width, height):
    return image
  return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def read_image(
  path: os.PathLike[str] | str, size: int | tuple[int, int] | None = None
) -> Float[np.ndarray, "H W 3"]:
  """Reads an image file.

  Args:
    path: of anything Pillow reads with 8 bits per channel; camera orientation
      is applied.
    size: side, or (height, width), in pixels. An image of another size is
      cropped around its centre to that aspect ratio and resampled. None keeps
      it as it is.

  Returns:
    float32 [H, W, 3] in [0, 1].

  Raises:
    UserError: the file, and what is wrong with it: absent, not an image, cut
      short, partly transparent, or not 8-bit grey or colour.
  """
  try:
    data = epath.Path(path).read_bytes()
  except OSError as error:
    reason = error.strerror or one_line(error)
    raise UserError(f"{path}: {reason}") from error
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      image = ImageOps.exif_transpose(image)
      image = _to_rgb(image, path)
  except Image.UnidentifiedImageError as error:
    raise UserError(f"{path}: this is not an image Pillow can read") from error
  except UserError:
    raise
  except Exception as error:  # decoders raise whatever a broken file leads to
    raise UserError(
      f"{path}: the image is damaged or cut short ({one_line(error)})"
    ) from error
  image = image if size is None else _fit(image, size)
  return np.asarray(image, np.float32) / 255


def read_images(
  paths: Sequence[str],
  size: int | tuple[int, int],
  places: Sequence[str] = (),
) -> UInt8[np.ndarray, "N H W 3"]:
  """Reads image files, each in one of the processes, for all of them.

  Every process has to call it, with the same files.

  Args:
    paths: of the files.
    size: side, or (height, width), in pixels; see `read_image`.
    places: where each path stands, for errors.

  Raises:
    UserError: see `read_image`; in every process.
  """
  shape = (*((size, size) if isinstance(size, int) else size), 3)
  count, index = processes.count(), processes.index()
  mine = np.zeros((-(-len(paths) // count), *shape), np.uint8)

  def fill() -> None:
    for row in range(index, len(paths), count):
      try:
        image = read_image(paths[row], size)
      except UserError as error:
        place = f"{places[row]}: " if places else ""
        raise UserError(f"{place}{error}") from error
      mine[row // count] = np.round(image * 255).astype(np.uint8)

  processes.on_all(fill)
  each = max(_EXCHANGED // (count * math.prod(shape)), 1)
  parts = [
    processes.gather(mine[i : i + each]).swapaxes(0, 1).reshape(-1, *shape)
    for i in range(0, len(mine), each)
  ]
  return np.concatenate([mine[:0], *parts])[: len(paths)]
