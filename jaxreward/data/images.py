"""Image files as float32 arrays in [0, 1]."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from jaxreward import processes
from jaxreward.data import image_files
from jaxreward.data.row_images import File
from jaxreward.errors import UserError

T = TypeVar("T")
U = TypeVar("U")
_EXCHANGED = 2**28  # bytes that a device holds while images are exchanged
_THREADS = 16  # at most; decoders release the GIL


FITS = ("crop", "pad", "stretch")


def _fit(
  image: Image.Image, size: int | tuple[int, int], fit: str = "crop"
) -> Image.Image:
  """An image of the target size, see `pixels`."""
  height, width = (size, size) if isinstance(size, int) else size
  if image.size == (width, height):
    return image
  bicubic = Image.Resampling.BICUBIC
  if fit == "pad":
    return ImageOps.pad(image, (width, height), bicubic)
  if fit == "stretch":
    return image.resize((width, height), bicubic)
  return ImageOps.fit(image, (width, height), bicubic)


def pixels(
  path: File, size: int | tuple[int, int] | None = None, fit: str = "crop"
) -> UInt8[np.ndarray, "H W 3"]:
  """As `read_image`, in bytes.

  Args:
    path: of the file.
    size: side, or (height, width), in pixels.
    fit: "crop" cuts the middle to the shape, "pad" puts the whole image on
      black, "stretch" changes its shape.
  """
  image, _ = image_files.decode(image_files.read(path), path)
  image = image if size is None else _fit(image, size, fit)
  return np.asarray(image, np.uint8)


def clip_pixels(
  path: File, frames: int, size: int | tuple[int, int], fit: str = "crop"
) -> UInt8[np.ndarray, "T H W 3"]:
  """Frames of an animation, evenly spaced, each as by `pixels`.

  An animation of fewer frames repeats some, and a still image its only one.

  Args:
    path: of the file.
    frames: T.
    size: see `pixels`.
    fit: see `pixels`.
  """
  clip = image_files.decode_frames(image_files.read(path), path, frames)
  return np.stack([np.asarray(_fit(f, size, fit), np.uint8) for f in clip])


def read_image(
  path: File, size: int | tuple[int, int] | None = None
) -> Float[np.ndarray, "H W 3"]:
  """Reads an image file by its content, whatever its suffix.

  The camera's orientation is applied. The first image of an animation, of
  several pages or of a photo with depth or previews is read. Of 16-bit grey and
  colours the upper 8 bits are used. Colour profiles are ignored, and CMYK
  becomes RGB by Pillow's plain formula, as in the code of published models,
  which calls `Image.open(...).convert("RGB")`.

  Args:
    path: of an image in one of `image_files.FORMATS`, or HEIC if pillow-heif is
      installed; of at most `image_files.MOST_PIXELS` pixels.
    size: side, or (height, width), in pixels. An image of another size is
      center-cropped to that aspect ratio and resampled. None keeps the size.

  Returns:
    float32 [H, W, 3] in [0, 1].

  Raises:
    UserError: the file and what is wrong with it: missing, not an image,
      truncated, too large, partly transparent, or neither grey nor colour.
  """
  return pixels(path, size).astype(np.float32) / 255


def in_threads(action: Callable[[T], U], items: Iterable[T]) -> list[U]:
  """Maps an action that releases the GIL over items.

  Raises:
    Exception: the first that the action raised, in the order of items.
  """
  workers = min(_THREADS, 2 * (os.cpu_count() or 1))
  with futures.ThreadPoolExecutor(workers) as pool:
    try:
      return list(pool.map(action, items))
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def read_images(
  paths: Sequence[File],
  size: int | tuple[int, int],
  places: Sequence[str] = (),
  frames: int = 0,
) -> UInt8[np.ndarray, "N H W 3"]:
  """Reads image files, split over processes, and gathers them in all.

  Every process has to call it with the same files.

  Args:
    paths: of the files, or images within tables.
    size: side, or (height, width), in pixels; see `read_image`.
    places: where each path is named, for errors.
    frames: of each file, side by side from left to right, see `clip_pixels`; 0 for
      images.

  Raises:
    UserError: see `read_image`; in every process.
  """
  height, width = (size, size) if isinstance(size, int) else size
  shape = (height, width * max(frames, 1), 3)
  count, index = processes.count(), processes.index()
  shard = np.zeros((-(-len(paths) // count), *shape), np.uint8)

  def fill(row: int) -> None:
    try:
      if frames:
        clip = clip_pixels(paths[row], frames, size)
        image = clip.swapaxes(0, 1).reshape(shape)
      else:
        image = pixels(paths[row], size)
    except UserError as error:
      place = f"{places[row]}: " if places else ""
      raise UserError(f"{place}{error}") from error
    shard[row // count] = image

  processes.on_all(
    lambda: in_threads(fill, range(index, len(paths), count)) and None
  )
  chunk = max(_EXCHANGED // (count * math.prod(shape)), 1)
  parts = [
    processes.gather(shard[i : i + chunk]).swapaxes(0, 1).reshape(-1, *shape)
    for i in range(0, len(shard), chunk)
  ]
  return np.concatenate([shard[:0], *parts])[: len(paths)]
