"""Whether a user's pictures are sound and go together, before they are needed.

The first bytes of every file are looked at, and files are decoded: all of them,
or above `MOST_FILES` or `MOST_BYTES` so many, spread evenly over the rows. Of
several processes each looks at its share of the rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from jaxreward import processes
from jaxreward.data import image_files
from jaxreward.data.images import in_threads
from jaxreward.errors import UserError

MOST_FILES = 2_000  # that are decoded
MOST_BYTES = 2 << 30
# Of shapes that are cut alike; sides are rounded to whole pixels.
_LIKE_SHAPE = 0.02
_LEAST = 64  # pixels; JPEGs are decoded in a smaller size of at least this
_TOLD = 500  # files from which on the check says that it has begun


@dataclasses.dataclass(frozen=True)
class PictureRow:
  """Pictures that stand together in a row of a user's file.

  Attributes:
    place: of the row, for errors.
    files: their paths by what they are: "image", "target", "mask", "image_a",
      "image_b" or, with a number behind it, another name.
    is_tie: the two of a pair may be equal.
  """

  place: str
  files: Mapping[str, str]
  is_tie: bool = False


@dataclasses.dataclass(frozen=True)
class _Seen:
  """Of a file: its (width, height), a hash of its pixels, any that is white."""

  size: tuple[int, int]
  digest: bytes
  has_white: bool


def check(rows: Sequence[PictureRow]) -> None:
  """Looks at the pictures of all rows; every process has to call it.

  Raises:
    UserError: of the first row for which it holds: the row, the file, and what
      is wrong with it. A picture is absent, damaged or none; a mask has no
      white; shapes of one row differ; the two of a pair are the same.
  """
  count, index = processes.count(), processes.index()
  mine = rows[index::count]
  processes.on_all(
    lambda: _check(mine, MOST_FILES // count, MOST_BYTES // count)
  )


def _check(
  rows: Sequence[PictureRow], most_files: int, most_bytes: int
) -> None:
  places = _places(rows)
  if len(places) >= _TOLD:
    logging.info("checking %d images ...", len(places))
  glance = functools.partial(_told, image_files.glance, places)
  sizes = dict(zip(places, in_threads(glance, places), strict=True))
  share = min(
    1.0,
    most_files / max(len(sizes), 1),
    most_bytes / max(sum(sizes.values()), 1),
  )
  wanted = len(rows) if share == 1 else max(1, int(share * len(rows)))
  chosen = [rows[i * len(rows) // wanted] for i in range(wanted if rows else 0)]
  paths = _places(chosen)
  masks = {row.files.get("mask") for row in chosen}
  see = lambda path: _see(path, 0 if path in masks else _LEAST)
  decode = functools.partial(_told, see, places)
  seen = dict(zip(paths, in_threads(decode, paths), strict=True))
  for row in chosen:
    _compare(row, seen)
  if len(paths) < len(places):
    logging.info(
      "checked %d of %d images by decoding them, the others by their first"
      " bytes", len(paths), len(places),
    )  # fmt: skip
  _warn_of_equals(chosen, seen)


def _places(rows: Sequence[PictureRow]) -> dict[str, str]:
  """Where each file stands first, by its path."""
  found: dict[str, str] = {}
  for row in rows:
    for name, path in row.files.items():
      found.setdefault(path, f'{row.place}: "{name}"')
  return found


def _told(action, places: Mapping[str, str], path: str) -> Any:
  """What an action gives of a path; its complaint says where that stands."""
  try:
    return action(path)
  except UserError as error:
    what = str(error).removeprefix(f"{path}: ")
    name = _short(path, places[path])
    raise UserError(f"{places[path]}: {name}: {what}") from error


def _short(path: str, place: str) -> str:
  """A file's name from the folder on that its place has named already."""
  try:
    shared = os.path.commonpath([path, place])
  except ValueError:  # one of the two is relative
    return path
  return path if shared in ("", os.sep) else os.path.relpath(path, shared)


def _see(path: str, least: int) -> _Seen:
  image, size = image_files.decode(image_files.read(path), path, least=least)
  pixels = np.asarray(image)
  digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
  digest.update(pixels.data)
  has_white = bool((pixels[..., 0] >= 128).any())  # as masks are read
  return _Seen(size, digest.digest(), has_white)


def _compare(row: PictureRow, seen: Mapping[str, _Seen]) -> None:
  found = {name: seen[path] for name, path in row.files.items()}
  if "mask" in found and not found["mask"].has_white:
    raise UserError(
      f'{row.place}: "mask" has no white pixel, and white'
      " is where the answer may differ; paint it, or leave the mask out"
    )
  for name in ("target", "mask"):
    if {"image", name} <= set(found):
      _require_shape(row, name, found[name].size, found["image"].size)
  pair = [found[name] for name in ("image_a", "image_b") if name in found]
  if len(pair) == 2 and not row.is_tie and pair[0].digest == pair[1].digest:
    raise UserError(
      f'{row.place}: "image_a" and "image_b" are the same picture, of which'
      ' none can be better; give another, or the label "tie"'
    )


def _require_shape(row: PictureRow, name: str, size, wanted) -> None:
  """Pictures of other shapes are cut elsewhere, so that places would differ."""
  (width, height), (w, h) = size, wanted
  slack = _LIKE_SHAPE + 1 / min(width, height) + 1 / min(w, h)
  if abs(np.log(width * h / (height * w))) > slack:
    raise UserError(
      f'{row.place}: "{name}" has {width} x {height} pixels and "image" {w} x'
      f" {h}, another shape, so that places would not agree; give both alike"
    )


def _warn_of_equals(
  rows: Sequence[PictureRow], seen: Mapping[str, _Seen]
) -> None:
  paths = {row.files["image"] for row in rows if "image" in row.files}
  if len(paths) > 1 and len({seen[path].digest for path in paths}) == 1:
    logging.warning(
      "%s: all %d pictures to start from show the same", rows[0].place,
      len(paths),
    )  # fmt: skip
