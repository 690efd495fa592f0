"""Checks a user's images and their consistency before they are needed.

The first bytes of every file are checked, and files are decoded: all of them,
or at most `MOST_FILES` and `MOST_BYTES`, spread evenly over the rows. Each
process checks its share of the rows.
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
from jaxreward.data.row_images import File
from jaxreward.errors import UserError

MOST_FILES = 2_000  # that are decoded
MOST_BYTES = 2 << 30
# Aspect ratios this close crop alike; sides are rounded to whole pixels.
_LIKE_SHAPE = 0.02
_LEAST = 64  # pixels; JPEGs are decoded at a reduced size of at least this
_LOG_FROM = 500  # files from which on the check logs that it starts


@dataclasses.dataclass(frozen=True)
class PictureRow:
  """Images of one row of a user's file.

  Attributes:
    place: of the row, for errors.
    files: paths by role: "image", "target", "mask", "image_a", "image_b" or
      another name followed by a number.
    is_tie: whether the two of a pair may be equal.
    is_edit: whether all have the shape of the image called "source".
  """

  place: str
  files: Mapping[str, File]
  is_tie: bool = False
  is_edit: bool = False


@dataclasses.dataclass(frozen=True)
class _File:
  """A file's (width, height), a hash of its pixels, and if any is white."""

  size: tuple[int, int]
  digest: bytes
  has_white: bool


def check(rows: Sequence[PictureRow]) -> None:
  """Checks the images of all rows; every process has to call it.

  Raises:
    UserError: for the first bad row: the row, the file, and what is wrong. A
      file is missing, damaged or not an image; a mask has no white; shapes
      within a row differ; the two of a pair are the same.
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
  if len(places) >= _LOG_FROM:
    logging.info("checking %d images ...", len(places))
  glance = functools.partial(_with_place, image_files.glance, places)
  sizes = dict(zip(places, in_threads(glance, places), strict=True))
  share = min(
    1.0,
    most_files / max(len(sizes), 1),
    most_bytes / max(sum(sizes.values()), 1),
  )
  number = len(rows) if share == 1 else max(1, int(share * len(rows)))
  sample = [rows[i * len(rows) // number] for i in range(number if rows else 0)]
  paths = _places(sample)
  masks = {row.files.get("mask") for row in sample}
  inspect = lambda path: _inspect(path, 0 if path in masks else _LEAST)
  decode = functools.partial(_with_place, inspect, places)
  files = dict(zip(paths, in_threads(decode, paths), strict=True))
  for row in sample:
    _compare(row, files)
  if len(paths) < len(places):
    logging.info(
      "checked %d of %d images by decoding them, the others by their first"
      " bytes", len(paths), len(places),
    )  # fmt: skip
  _warn_of_equals(sample, files)


def _places(rows: Sequence[PictureRow]) -> dict[File, str]:
  """The first place that names each file, by path."""
  places: dict[File, str] = {}
  for row in rows:
    for name, path in row.files.items():
      places.setdefault(path, f'{row.place}: "{name}"')
  return places


def _with_place(action, places: Mapping[File, str], path: File) -> Any:
  """Result of an action on a path; errors name the place of the file."""
  try:
    return action(path)
  except UserError as error:
    reason = str(error).removeprefix(f"{path}: ")
    name = _short(path, places[path])
    raise UserError(f"{places[path]}: {name}: {reason}") from error


def _short(path: File, place: str) -> str:
  """A file's name relative to the folder that its place already names."""
  try:
    shared = os.path.commonpath([path, place])
  except ValueError:  # one of the two is relative
    return str(path)
  return str(path) if shared in ("", os.sep) else os.path.relpath(path, shared)


def _inspect(path: File, least: int) -> _File:
  image, size = image_files.decode(image_files.read(path), path, least=least)
  pixels = np.asarray(image)
  digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
  digest.update(pixels.data)
  has_white = bool((pixels[..., 0] >= 128).any())  # as masks are read
  return _File(size, digest.digest(), has_white)


def _compare(row: PictureRow, details: Mapping[File, _File]) -> None:
  files = {name: details[path] for name, path in row.files.items()}
  if "mask" in files and not files["mask"].has_white:
    raise UserError(
      f'{row.place}: "mask" has no white pixel, and white'
      " is where the answer may differ; paint it, or leave the mask out"
    )
  first, others = "image", ("target", "mask")
  if row.is_edit:
    first, others = "source", tuple(files)
  for name in others:
    if {first, name} <= set(files):
      _require_shape(row, name, files[name].size, first, files[first].size)
  pair = [files[name] for name in ("image_a", "image_b") if name in files]
  if len(pair) == 2 and not row.is_tie and pair[0].digest == pair[1].digest:
    raise UserError(
      f'{row.place}: "image_a" and "image_b" are the same picture, of which'
      ' none can be better; give another, or the label "tie"'
    )


def _require_shape(
  row: PictureRow, name: str, size, first: str, reference
) -> None:
  """Images of different aspect ratios are cropped differently."""
  (width, height), (w, h) = size, reference
  slack = _LIKE_SHAPE + 1 / min(width, height) + 1 / min(w, h)
  if abs(np.log(width * h / (height * w))) > slack:
    raise UserError(
      f'{row.place}: "{name}" has {width} x {height} pixels and "{first}" {w} x'
      f" {h}, another shape, so that places would not agree; give both alike"
    )


def _warn_of_equals(
  rows: Sequence[PictureRow], details: Mapping[File, _File]
) -> None:
  paths = {row.files["image"] for row in rows if "image" in row.files}
  if len(paths) > 1 and len({details[path].digest for path in paths}) == 1:
    logging.warning(
      "%s: all %d pictures to start from show the same", rows[0].place,
      len(paths),
    )  # fmt: skip
