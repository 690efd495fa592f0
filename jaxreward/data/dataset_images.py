"""What is known of a dataset's images before any is used: sizes and hashes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jaxreward import processes
from jaxreward.data import image_files
from jaxreward.data.images import in_threads
from jaxreward.data.preference_files import Tally
from jaxreward.data.rows import Record
from jaxreward.errors import UserError

_LEAST = 64  # pixels; JPEGs are decoded at a reduced size of at least this
_BYTES = 16  # of a hash


@dataclasses.dataclass(frozen=True)
class Inspection:
  """Of N rows of F files.

  Attributes:
    sizes: (height, width) of each row's first image.
    digests: hash of the bytes of each file.
    readable: rows whose files are all images.
  """

  sizes: Int[np.ndarray, "N 2"]
  digests: UInt8[np.ndarray, "N F 16"]
  readable: Bool[np.ndarray, "N"]

  def digest(self, row: int, file: int = 0) -> str:
    """Hash of a file, in hexadecimal digits."""
    return self.digests[row, file].tobytes().hex()


def inspect(records: Sequence[Record], name: str, skip: float = 0.0):
  """Reads and decodes every image once, each by one of the processes.

  Every process has to call it.

  Args:
    records: rows with the same number of files.
    name: of the dataset, for errors.
    skip: share of rows that may be left out as unreadable.

  Raises:
    UserError: an image that cannot be read, with its place; or too many.
  """
  count, index = processes.count(), processes.index()
  width = len(records[0].files)
  row_bytes = 2 * 8 + width * _BYTES + 8
  share = np.zeros((-(-len(records) // count), row_bytes), np.uint8)
  tally = Tally(skip, rows=len(records))
  errors: dict[int, str] = {}

  def look(row: int) -> None:
    record = records[row]
    try:
      size, digests = _look(record)
    except UserError as error:
      line = f"{record.place}: {error}"
      if not skip:
        raise UserError(line) from error
      errors[row] = line
      return
    head = np.array([*size[::-1], 1], np.int64).view(np.uint8)
    share[row // count] = np.concatenate([head, *digests])

  processes.on_all(
    lambda: in_threads(look, range(index, len(records), count)) and None
  )
  table = processes.gather(share).swapaxes(0, 1).reshape(-1, row_bytes)
  table = table[: len(records)]
  numbers = np.ascontiguousarray(table[:, :24]).view(np.int64)
  readable = numbers[:, 2] == 1
  tally.malformed = int((~readable).sum())
  tally.rows -= tally.malformed
  tally.first = next(iter(errors.values()), "an image of another process")
  tally.finish(name)
  digests = table[:, 24:].reshape(len(records), width, _BYTES)
  return Inspection(numbers[:, :2], digests, readable)


def _look(record: Record) -> tuple[tuple[int, int], list[np.ndarray]]:
  """((width, height) of the first file, the hash of every file)."""
  sizes, digests = [], []
  for file in record.files.values():
    data = image_files.read(file)
    sizes.append(image_files.decode(data, file, least=_LEAST)[1])
    digest = hashlib.blake2b(data, digest_size=_BYTES).digest()
    digests.append(np.frombuffer(digest, np.uint8))
  return sizes[0], digests


def held_out(digests: Sequence[str], share: float) -> Bool[np.ndarray, "N"]:
  """Rows of the smallest hashes: equal images fall on one side.

  Args:
    digests: of the rows' images.
    share: of different images, in [0, 1); at least one if it is not 0 and there
      are two.
  """
  order = sorted(set(digests))
  count = round(share * len(order))
  if share and len(order) > 1:
    count = min(max(count, 1), len(order) - 1)
  selection = set(order[:count])
  return np.array([d in selection for d in digests], bool)
