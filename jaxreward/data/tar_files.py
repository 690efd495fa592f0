"""Webdataset shards: of a .tar file, members of one name are a row.

A name ends at its first dot: `dog.jpg` and `dog.txt` are the image and the caption
of the row "dog"; the keys of `dog.json` are columns too, unless a member gives the
same. `dog.target.png` is the column "target".
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxreward import paths, reading
from jaxreward.data import image_files, video_files
from jaxreward.data.row_images import Steps, cell_of
from jaxreward.errors import UserError, one_line

SUFFIX = ".tar"
_TEXTS = ("txt", "text", "caption")
# Columns of a JSON member that another member takes the place of.
_SAME = {
  "image": ("image", "file_name", "image_path", "video"),
  "text": ("prompt", "caption", "text"),
}
Raw = tuple[str, "dict[str, Any] | UserError"]


class Tar:
  """One shard, a table whose rows hold images.

  Attributes:
    path: of the file.
  """

  def __init__(self, path: epath.Path):
    self.path = path

  def rows(self) -> Iterator[Raw]:
    """(place, row, or what is wrong with it).

    Raises:
      UserError: the file as a whole cannot be read.
    """
    name = reading.name(self.path)
    try:
      with (
        self.path.open("rb") as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
      ):
        members = (
          m
          for m in tar
          if m.isfile() and not m.issparse() and not _is_hidden(m.name)
        )
        for number, (key, group) in enumerate(
          itertools.groupby(members, lambda m: _split(m.name)[0])
        ):
          place = f'{name}, "{key}"'
          try:
            yield place, self._row(tar, number, list(group), place)
          except UserError as error:
            yield place, error
    except tarfile.TarError as error:
      raise UserError(
        f"{name}: it is no readable .tar archive ({one_line(error)[:90]});"
        " unpack a compressed one to .tar, or fetch it again"
      ) from error
    except OSError as error:
      raise UserError(f"{name}: {paths.reason_of(error)}") from error

  def _row(self, tar, number, members, place) -> dict[str, Any]:
    row: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for member in members:
      *column, kind = _split(member.name)[1].split(".")
      data = tar.extractfile(member).read()
      if kind in _TEXTS:
        text = reading.decode(data, place)
        row[".".join(column) or "text"] = " ".join(text.split())
      elif kind == "json":
        value = reading.foreign_value(reading.decode(data, place), place)
        if not isinstance(value, dict):
          raise UserError(
            f"{place}: {member.name} holds {json.dumps(value)[:40]}; expected"
            " an object"
          )
        record |= value
      elif image_files.is_image(data[:512], member.name) or (
        video_files.is_video(data[:512])
      ):
        at = (kind, member.offset_data, member.size)
        row[".".join(column) or "image"] = cell_of(self, number, at, data)
    for column, names in _SAME.items():
      if column in row:
        record = {k: v for k, v in record.items() if k not in names}
    return record | row

  def cell(self, row: int, steps: Steps) -> bytes:
    """The bytes of a member, by (suffix, offset, size)."""
    del row
    _, offset, size = steps
    with self.path.open("rb") as file:
      file.seek(int(offset))
      return file.read(int(size))

  def group_of(self, row: int) -> int | None:
    del row
    return None


def _split(name: str) -> tuple[str, str]:
  """(folder and name up to the first dot, what follows it in lower case)."""
  folder, base = os.path.split(name)
  stem, _, rest = base.partition(".")
  return os.path.join(folder, stem), rest.lower()


def _is_hidden(name: str) -> bool:
  return os.path.basename(name).startswith(".")
