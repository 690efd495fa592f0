"""Atomic file writes: a killed process leaves the old file or the new one.

A path is local or in a bucket. Objects cannot be appended to, so a growing file
is kept in memory and rewritten from time to time and before every checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from absl import logging
from etils import epath

from jaxreward import buckets, processes
from jaxreward.errors import Lost, UserError, one_line

# Types of tensors that are read, as safetensors spells them.
FLOATS = ("F64", "F32", "F16", "BF16")
WHOLE = ("I64", "I32", "I16", "I8", "U8", "BOOL")
_EVERY = 30.0  # seconds between two times a growing object is written


def write_atomic(
  path: os.PathLike[str] | str, data: bytes | str, *, shared: bool = False
) -> None:
  """Writes to a temporary file, syncs and renames: readers see old or new.

  Of several processes, process 0 alone writes.

  Args:
    path: the file; its folder is made if absent.
    data: text is written as UTF-8.
    shared: other runs may be writing the same file.

  Raises:
    UserError: no room or no permission; an older file stays as it was.
    Lost: it is in a bucket that is out of reach.
  """
  if not processes.is_first():
    return
  path = epath.Path(path)
  data = data.encode() if isinstance(data, str) else data
  if buckets.is_bucket(path):
    with buckets.writing(path):
      path.write_bytes(data)
    return
  suffix = f".{uuid.uuid4().hex}" if shared else ""
  temporary = path.parent / f".{path.name}{suffix}.tmp"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    reason = error.strerror or one_line(error)
    raise UserError(f"cannot write {path}: {reason}") from error


class GrowingObject:
  """An append-only file backed by an object in a bucket.

  Args:
    path: of the object; an existing one is appended to.
  """

  def __init__(self, path: epath.Path):
    self._path = path
    self._data = bytearray(path.read_bytes() if path.exists() else b"")
    self._is_new, self._written = False, time.monotonic()

  def tell(self) -> int:
    return len(self._data)

  def write(self, data: bytes) -> int:
    self._data += data
    self._is_new = True
    if time.monotonic() - self._written > _EVERY:
      self._written = time.monotonic()
      try:
        self.publish()
      except Lost as error:  # the next time may do better
        logging.warning("%s", error)
    return len(data)

  def truncate(self, size: int) -> None:
    del self._data[size:]
    self._is_new = True

  def publish(self) -> None:
    """Writes the object if it has changed.

    Raises:
      UserError: another process has taken the working directory over.
      Lost: the bucket is out of reach.
    """
    if not self._is_new:
      return
    buckets.require_held()
    write_atomic(self._path, bytes(self._data))
    self._is_new, self._written = False, time.monotonic()

  def close(self) -> None:
    self.publish()


def save_arrays(path: os.PathLike[str] | str, **arrays: Any) -> None:
  """Writes arrays to one compressed .npz, as `write_atomic`."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  write_atomic(path, buffer.getvalue())


def open_growing(path: os.PathLike[str] | str) -> IO[bytes] | GrowingObject:
  """A file to append to, unbuffered; its folder is made if absent."""
  path = epath.Path(path)
  if buckets.is_bucket(path):
    return GrowingObject(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  return open(path, "ab", buffering=0)


def sync(file: IO[bytes] | GrowingObject) -> None:
  """Flushes a local file to disk."""
  if not isinstance(file, GrowingObject):
    os.fsync(file.fileno())


def publish(file: IO[bytes] | GrowingObject) -> None:
  """Makes everything written so far visible to other processes."""
  if isinstance(file, GrowingObject):
    file.publish()


@contextlib.contextmanager
def local(path: os.PathLike[str] | str) -> Iterator[str]:
  """A local copy, for readers that need a local file."""
  if not buckets.is_bucket(path):
    yield os.fspath(path)
    return
  with tempfile.NamedTemporaryFile() as copy:
    with epath.Path(path).open("rb") as file:
      shutil.copyfileobj(file, copy)
    copy.flush()
    yield copy.name


@contextlib.contextmanager
def local_folder(folder: epath.Path) -> Iterator[str]:
  """A local copy of a folder, for readers that need a local one."""
  if not buckets.is_bucket(folder):
    yield os.fspath(folder)
    return
  with tempfile.TemporaryDirectory() as copy:
    for path in folder.glob("**/*"):
      if path.is_file():
        into = epath.Path(copy) / os.path.relpath(path, folder)
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_bytes(path.read_bytes())
    yield copy


@contextlib.contextmanager
def replaced_folder(folder: epath.Path) -> Iterator[epath.Path]:
  """A folder to write into, which replaces `folder` once complete.

  In a bucket files appear one by one, in the order of their names.
  """
  if buckets.is_bucket(folder):
    with tempfile.TemporaryDirectory() as beside:
      yield epath.Path(beside)
      folder.rmtree(missing_ok=True)
      copy_folder(beside, folder)
    return
  beside = folder.parent / f".{folder.name}.tmp"
  shutil.rmtree(beside, ignore_errors=True)
  yield beside
  shutil.rmtree(folder, ignore_errors=True)
  beside.rename(folder)


def copy_folder(source: str, target: epath.Path) -> None:
  """Copies all files of a local folder, at any depth, into a bucket."""
  for root, _, names in sorted(os.walk(source)):
    for name in sorted(names):
      path = os.path.join(root, name)
      into = target / os.path.relpath(path, source)
      with open(path, "rb") as file, buckets.writing(into):
        with into.open("wb") as out:
          shutil.copyfileobj(file, out)


def move_folder(source: epath.Path, target: epath.Path) -> None:
  """Renames a folder; in a bucket its objects are copied and removed."""
  if not buckets.is_bucket(source):
    source.rename(target)
    return
  import fsspec

  system = fsspec.filesystem("gs")
  system.copy(os.fspath(source), os.fspath(target), recursive=True)
  system.rm(os.fspath(source), recursive=True)


_FLOATS = ("float64", "float32", "float16", "bfloat16")


def require_plain(path: os.PathLike[str] | str, name: str, dtype: str) -> None:
  """Requires that a tensor of weights has a plain numeric type.

  Args:
    path: of the file, for the error.
    name: of the tensor there.
    dtype: as safetensors spells it, such as "BF16".

  Raises:
    UserError: it is of another type, such as a quantised one.
  """
  if dtype not in FLOATS + WHOLE:
    raise UserError(
      f"{path}: {name} is stored as {dtype}, which is not read; use a copy of"
      f" the weights in one of {', '.join(FLOATS)}"
    )


def require_finite(
  path: os.PathLike[str] | str, name: str, x: np.ndarray
) -> None:
  """Requires that a tensor of weights has no NaN and no infinity.

  Args:
    path: of the file, for the error.
    name: of the tensor there.
    x: its values, of any type.

  Raises:
    UserError: it has one.
  """
  if x.dtype.name in _FLOATS and not is_finite(x):
    raise UserError(
      f"{path}: {name} holds a value that is not finite; the file was spoilt"
      " when it was trained, converted or copied"
    )


def is_finite(x: np.ndarray) -> bool:
  """Whether no value is NaN or infinite, at the speed of memory.

  Non-finite values have all exponent bits set, so that, viewed as integers, they
  are the largest: negative ones as unsigned, positive ones as signed integers.
  """
  if not x.size:
    return True
  bits = 8 * x.dtype.itemsize
  least = np.array(np.inf, x.dtype).view(f"u{bits // 8}")
  signed, unsigned = (x.view(f"{kind}{bits // 8}") for kind in "iu")
  top = 1 << (bits - 1)
  return int(signed.max()) < int(least) > int(unsigned.max()) - top
