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
from jaxreward.errors import UserError

T = TypeVar("T")
U = TypeVar("U")
_EXCHANGED = 2**28  # bytes that a device holds while pictures are exchanged
_THREADS = 16  # at most; decoders let other threads run


def _fit(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
  """The largest centred part with the wanted aspect ratio, resampled."""
  height, width = (size, size) if isinstance(size, int) else size
  if image.size == (width, height):
    return image
  return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def read_image(
  path: os.PathLike[str] | str, size: int | tuple[int, int] | None = None
) -> Float[np.ndarray, "H W 3"]:
  """Reads an image file, by what it holds, whatever its name ends with.

  The camera's orientation is applied. Of an animation, a photo with depth or
  previews, and of several pages, the first picture is read. Grey of 16 bits
  and colours of 16 bits count by their upper 8. Colour profiles are ignored,
  and CMYK becomes RGB by Pillow's plain formula, as in the programs of the
  published models, which call `Image.open(...).convert("RGB")`.

  Args:
    path: of an image in one of `image_files.FORMATS`, or of HEIC, if
      pillow-heif is installed; of at most `image_files.MOST_PIXELS` pixels.
    size: side, or (height, width), in pixels. An image of another size is
      cropped around its centre to that aspect ratio and resampled. None keeps
      it as it is.

  Returns:
    float32 [H, W, 3] in [0, 1].

  Raises:
    UserError: the file, and what is wrong with it: absent, not an image, cut
      short, too large, partly transparent, or neither grey nor colour.
  """
  image, _ = image_files.decode(image_files.read(path), path)
  image = image if size is None else _fit(image, size)
  return np.asarray(image, np.float32) / 255


def in_threads(action: Callable[[T], U], items: Iterable[T]) -> list[U]:
  """What an action gives of each item; it spends its time out of Python.

  Raises:
    Exception: what it raised of the first item for which it did.
  """
  workers = min(_THREADS, 2 * (os.cpu_count() or 1))
  with futures.ThreadPoolExecutor(workers) as pool:
    try:
      return list(pool.map(action, items))
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


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

  def fill(row: int) -> None:
    try:
      image = read_image(paths[row], size)
    except UserError as error:
      place = f"{places[row]}: " if places else ""
      raise UserError(f"{place}{error}") from error
    mine[row // count] = np.round(image * 255).astype(np.uint8)

  processes.on_all(
    lambda: in_threads(fill, range(index, len(paths), count)) and None
  )
  each = max(_EXCHANGED // (count * math.prod(shape)), 1)
  parts = [
    processes.gather(mine[i : i + each]).swapaxes(0, 1).reshape(-1, *shape)
    for i in range(0, len(mine), each)
  ]
  return np.concatenate([mine[:0], *parts])[: len(paths)]
