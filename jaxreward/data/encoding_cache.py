"""Outputs of frozen encoders on disk, named by what they were made of.

An entry is one `.npz` file whose name is the hash of everything that decides its
numbers: bytes of the image, its size, the caption, the encoder. A changed picture or
encoder is another name, so that no entry is ever out of date.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from etils import epath

from jaxreward import files

_HALF = ":bfloat16"  # arrays that lose nothing by half their size


def key(*parts: object) -> str:
  """The name of an entry, by everything that decides its numbers."""
  return hashlib.blake2b(repr(parts).encode(), digest_size=20).hexdigest()


class EncodingCache:
  """Arrays by name in a folder, which several runs may share.

  Of several processes the first writes; all of them read the same folder.
  """

  def __init__(self, folder: os.PathLike[str] | str):
    self.folder = epath.Path(folder)

  def _path(self, name: str) -> epath.Path:
    return self.folder / name[:2] / f"{name}.npz"

  def has(self, name: str) -> bool:
    """Whether there is such an entry."""
    return self._path(name).exists()

  def read(self, name: str) -> dict[str, np.ndarray] | None:
    """The arrays of an entry; None if there is none, or a damaged one."""
    try:
      with np.load(io.BytesIO(self._path(name).read_bytes())) as data:
        return dict(_whole(k, data[k]) for k in data.files)  # checks CRC-32
    except FileNotFoundError:
      return None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile):
      return None

  def discard(self, name: str) -> None:
    """Removes an entry, if it is there."""
    self._path(name).unlink(missing_ok=True)

  def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an entry atomically.

    Raises:
      UserError: no room or no permission.
    """
    buffer = io.BytesIO()
    # pyrefly: ignore
    np.savez(buffer, **dict(_halved(k, x) for k, x in arrays.items()))
    files.write_atomic(self._path(name), buffer.getvalue(), shared=True)


def _halved(name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
  """float32 as bfloat16 where every number is one, as encoders often give."""
  x = np.asarray(x)
  if x.dtype == np.float32:
    half = x.astype(ml_dtypes.bfloat16)
    if np.array_equal(half.astype(np.float32), x):
      return name + _HALF, half.view(np.uint16)
  return name, x


def _whole(name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
  if not name.endswith(_HALF):
    return name, x
  half = x.view(ml_dtypes.bfloat16)
  return name.removesuffix(_HALF), half.astype(np.float32)
