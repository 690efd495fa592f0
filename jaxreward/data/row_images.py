"""An image of a row: a file of its own, or bytes within a table."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Protocol, runtime_checkable

from jaxreward.data import image_files

Steps = tuple[str | int, ...]  # from a row to a value within it


@runtime_checkable
class Table(Protocol):
  """A file whose rows hold images."""

  def cell(self, row: int, steps: Steps) -> bytes:
    """The bytes of one value."""
    ...

  def group_of(self, row: int) -> int | None:
    """Number of the rows that are read as one; None if each is read alone."""
    ...


@dataclasses.dataclass(frozen=True)
class Cell:
  """Bytes within a table, read when needed.

  Attributes:
    table: the file.
    row: from 0 on.
    steps: column, then keys and indices within it.
    size: in bytes.
    digest: of the bytes.
    head: the first bytes, which identify an image.
  """

  table: Table = dataclasses.field(compare=False, repr=False)
  row: int
  steps: Steps
  size: int
  digest: str
  head: bytes = dataclasses.field(compare=False, repr=False)

  def read(self) -> bytes:
    return self.table.cell(self.row, self.steps)


def cell_of(table: Table, row: int, steps: Steps, data: bytes) -> Cell:
  """The address of bytes that have just been read."""
  digest = hashlib.blake2b(data, digest_size=16).hexdigest()
  return Cell(table, row, steps, len(data), digest, data[:64])


@dataclasses.dataclass(frozen=True)
class RowImage:
  """An image that a row names or holds.

  It is a path for `open`, for errors, and for `image_files`.

  Attributes:
    name: column of the row, such as "image_path[1]", for errors.
    path: of its file, or of the table with the column.
    cell: its place in the table; None for a file.
  """

  name: str = dataclasses.field(compare=False)
  path: str
  cell: Cell | None = dataclasses.field(default=None, compare=False)

  @property
  def key(self) -> str:
    """Equal for images that are the same file, or the same bytes."""
    return self.path if self.cell is None else self.cell.digest

  def __fspath__(self) -> str:
    return self.path

  def __str__(self) -> str:
    return self.path

  def read(self, most: int = -1) -> bytes:
    """The content, or its first `most` bytes.

    Raises:
      UserError: the file is missing or cannot be read.
    """
    return image_files.read(self, most)


File = os.PathLike[str] | str  # a RowImage too


def inside(table: os.PathLike[str] | str, name: str, cell: Cell) -> RowImage:
  """An image within a table; its path tells the row and the column."""
  return RowImage(name, f"{os.fspath(table)}#{cell.row + 1}.{name}", cell)
