"""Images of a data set at one size, each decoded once, when first needed."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Bool, Int, UInt8

from jaxreward import paths, processes
from jaxreward.data import images
from jaxreward.data.row_images import RowImage
from jaxreward.errors import UserError

MOST_MEMORY = 4 << 30  # bytes; more are kept in a file
_MISSING, _READY, _BROKEN = 0, 1, 2


class ImageStore:
  """uint8 [M, H, W, 3] or clips [M, T, H, W, 3], filled by `take`.

  It may be called from any thread.

  Each process decodes the images that its rows show. Of a parquet file, a group
  of rows is read once, and all of its images are decoded then.

  Args:
    files: M images.
    places: where each is named, for errors.
    size: side, or (height, width), in pixels.
    fit: see `images.pixels`.
    cache: folder of the pixels, which later runs read too; empty for memory.
    frames: T, of each file; 0 for images.
    skips: whether an image that cannot be read is left out, not an error.

  Raises:
    UserError: too many images for memory, or no such folder.
  """

  def __init__(
    self,
    files: Sequence[RowImage],
    places: Sequence[str],
    size: int | tuple[int, int],
    *,
    fit: str = "crop",
    cache: str = "",
    frames: int = 0,
    skips: bool = False,
  ):
    self.files, self.places, self.fit = files, places, fit
    self.size = (size, size) if isinstance(size, int) else size
    self.skips, self.frames = skips, frames
    self._lock = threading.Lock()
    one = (*self.size, 3)
    shape = (len(files), *((frames,) if frames else ()), *one)
    if cache:
      self._pixels, self._state = _mapped(cache, shape, self._key())
    else:
      if math.prod(shape) > MOST_MEMORY:
        raise UserError(
          f"{len(files)} images of {' x '.join(map(str, shape[1:-1]))} take"
          f" {math.prod(shape) / 2**30:.1f} GiB, and memory holds"
          f" {MOST_MEMORY >> 30}; name a folder for them in"
          " config.data.reading.cache"
        )
      self._pixels = np.zeros(shape, np.uint8)
      self._state = np.zeros(len(files), np.uint8)

  @property
  def broken(self) -> int:
    """How many images were left out so far."""
    return int((self._state == _BROKEN).sum())

  @functools.cached_property
  def _groups(self) -> dict[tuple[int, int], list[int]]:
    """Images of each group of rows of a table."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i in range(len(self.files)):
      if (group := self._group(i)) is not None:
        groups.setdefault(group, []).append(i)
    return groups

  def _group(self, i: int) -> tuple[int, int] | None:
    cell = self.files[i].cell
    if cell is None or (number := cell.table.group_of(cell.row)) is None:
      return None
    return id(cell.table), number

  def _key(self) -> str:
    """Names the images, their state and how they are fitted."""
    how = (self.size, self.fit) + ((self.frames,) if self.frames else ())
    digest = hashlib.blake2b(repr(how).encode())
    for file in self.files:
      digest.update(f"\n{file.key}".encode())
      if file.cell is None and "://" not in file.path:
        try:
          about = os.stat(file.path)
          digest.update(f" {about.st_size} {about.st_mtime_ns}".encode())
        except OSError:  # told where it is drawn
          continue
    part = f"{processes.index()}of{processes.count()}"
    return f"{digest.hexdigest()[:16]}-{part}"

  def take(
    self, index: Int[np.ndarray, "*B"]
  ) -> tuple[UInt8[np.ndarray, "..."], Bool[np.ndarray, "*B"]]:
    """(images or clips, whether each is there); zeros at -1 and for broken ones.

    Raises:
      UserError: an image that cannot be read, with its place.
    """
    index = np.asarray(index)
    needed = np.unique(index[index >= 0])
    with self._lock:
      missing = needed[self._state[needed] == _MISSING].tolist()
      if missing:
        self._fill(missing)
    there = (index >= 0) & (self._state[index] == _READY)
    out = np.asarray(self._pixels[np.where(index >= 0, index, 0)])
    out[~there] = 0
    return out, there

  def _fill(self, missing: list[int]) -> None:
    groups = {self._group(i) for i in missing} - {None}
    more = {i for group in groups for i in self._groups[group]}  # pyrefly: ignore
    more = {i for i in more if self._state[i] == _MISSING}
    place = lambda i: (self._group(i) or (0, 0), i)
    images.in_threads(self._decode, sorted({*missing, *more}, key=place))

  def stills(
    self, index: Int[np.ndarray, "*B"]
  ) -> tuple[UInt8[np.ndarray, "*B H W 3"], Bool[np.ndarray, "*B"]]:
    """As `take`; of clips the middle frame."""
    out, there = self.take(index)
    return out[..., self.frames // 2, :, :, :] if self.frames else out, there

  def _read(self, file: RowImage) -> np.ndarray:
    if self.frames:
      return images.clip_pixels(file, self.frames, self.size, self.fit)
    return images.pixels(file, self.size, self.fit)

  def _decode(self, i: int) -> None:
    try:
      self._pixels[i] = self._read(self.files[i])
      self._state[i] = _READY
    except UserError as error:
      line = f"{self.places[i]}: {error}"
      if not self.skips:
        raise UserError(line) from error
      if not (self._state == _BROKEN).any():
        logging.warning("%s; its row is left out", line)
      self._state[i] = _BROKEN


def _mapped(
  cache: str, shape: tuple[int, ...], key: str
) -> tuple[np.ndarray, np.ndarray]:
  """(pixels, states) in files of a folder."""
  folder = epath.Path(paths.expand(cache, "config.data.reading.cache"))
  if "://" in os.fspath(folder):
    raise UserError(
      f"config.data.reading.cache={cache}: name a folder of a local disk"
    )
  try:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for name, size in (("pixels", shape), ("states", shape[:1])):
      path = os.fspath(folder / f"{key}-{name}.u8")
      if not os.path.exists(path) or os.path.getsize(path) != math.prod(size):
        with open(path, "wb") as file:
          file.truncate(math.prod(size))
      arrays.append(np.memmap(path, np.uint8, "r+", shape=size))
  except OSError as error:
    raise UserError(
      f"config.data.reading.cache={cache}: {paths.reason_of(error)}"
    ) from error
  return arrays[0], arrays[1]
