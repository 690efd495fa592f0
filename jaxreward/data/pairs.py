"""A user's own preferences: a file of pairs with images beside it.

  {"prompt": "a red circle", "image_a": "1.png", "image_b": "2.png",
   "label": "a"}

The label is "a", "b" or "tie", or the probability that a is preferred;
`public_layouts` lists the columns of other data sets.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

import numpy as np
from etils import epath

from jaxreward import paths, reading
from jaxreward.data import preference_files
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.preferences import SOURCES, Preferences
from jaxreward.data.row_images import RowImage
from jaxreward.errors import UserError

Tokenize = Callable[[str], np.ndarray]  # UserError for unknown words
SplitOf = Callable[[str], str | None]

_HELDOUT_PERCENT = 20


def _no_pair(path: epath.Path, side: str) -> UserError:
  return UserError(
    f"{reading.name(path)}: none of its pairs is on the {side} side; pairs are"
    " split by prompt, so more prompts are needed"
  )


def is_heldout(text: str, split_of: SplitOf | None = None) -> bool:
  """Whether a prompt is held out, by the task's split or a hash of its words.

  All pairs of one prompt are on one side.
  """
  split = None if split_of is None else split_of(text)
  if split is not None:
    return split != "train"
  words = " ".join(text.lower().replace(".", " ").split())
  return zlib.crc32(words.encode()) % 100 < _HELDOUT_PERCENT


class _Images:
  """Distinct images by path."""

  def __init__(self, size: int):
    self.size = size
    self.rows: dict[RowImage, int] = {}
    self.places: list[str] = []
    self.pairs: list[tuple[list[int], str, bool]] = []

  def __call__(self, image: RowImage, place: str) -> int:
    """The row of an image; `place` is where it is named."""
    if image not in self.rows:
      self.rows[image] = len(self.places)
      self.places.append(place)
    return self.rows[image]

  def checked(self) -> list[PictureRow]:
    """The pairs, for `image_checks`."""
    paths = [*self.rows]
    return [
      PictureRow(place, {"image_a": paths[a], "image_b": paths[b]}, is_tie)
      for (a, b), place, is_tie in self.pairs
    ]

  def read(self) -> np.ndarray:
    """uint8 [N, size, size, 3], in every process."""
    return read_images(list(self.rows), self.size, self.places)


def load_pairs(
  path: os.PathLike[str] | str,
  size: int,
  field: str = "",
  *,
  tokenize: Tokenize,
  split_of: SplitOf | None = None,
) -> tuple[Preferences, Preferences]:
  """Training and held-out pairs of a file, split by prompt.

  Args:
    path: of the file; image paths are relative to it.
    size: images are cropped and resized to size x size.
    field: config field of the file, for errors.
    tokenize: prompt -> word ids, int32 [L].
    split_of: prompt -> its split in the task; None for other prompts.

  Raises:
    UserError: by file and line; a side without a pair; an image on both sides.
  """
  sides = _sides(paths.find(path, field), size, tokenize, split_of)
  return _arrays(*sides[False]), _arrays(*sides[True])


def rows_of(
  path: os.PathLike[str] | str,
  field: str = "",
  *,
  tokenize: Tokenize,
  split_of: SplitOf | None = None,
) -> list[PictureRow]:
  """The images of all pairs, for `image_checks`.

  Raises:
    UserError: see `load_pairs`; or no training pair has a label.
  """
  path = paths.find(path, field)
  sides = _sides(path, 1, tokenize, split_of)
  train, heldout = (side[1].checked() for side in sides.values())
  if all(row.is_tie for row in train):
    raise UserError(
      f'{path}: all {len(train)} training pairs are a "tie", which teaches'
      " nothing; give pairs with an answer"
    )
  return [*train, *heldout]


def _sides(
  path: epath.Path, size: int, tokenize: Tokenize, split_of: SplitOf | None
) -> dict[bool, tuple[list, _Images]]:
  """(labelled pairs, images) of the training and the held-out side."""
  sides = {side: ([], _Images(size)) for side in (False, True)}
  for row in preference_files.read_rows(path):
    try:
      tokens = tokenize(row.prompt)
    except UserError as error:
      raise UserError(f"{row.place}: {error}") from error
    rows, images = sides[is_heldout(row.prompt, split_of)]
    for i, j, prob in row.pairs():
      members = [
        images(image, f'{row.place}: "{image.name}"')
        for image in (row.images[i], row.images[j])
      ]
      rows.append((tokens, members, prob))
      images.pairs.append((members, row.place, prob == 0.5))
  shared = sorted(
    map(str, set(sides[False][1].rows) & set(sides[True][1].rows))
  )
  if shared:
    raise UserError(
      f"{path}: {shared[0]} belongs to training and to held-out prompts; a"
      " picture may stand on one side only"
    )
  for heldout, (rows, _) in sides.items():
    if not rows:
      raise _no_pair(path, "held-out" if heldout else "training")
  return sides


def _arrays(rows, images) -> Preferences:
  tokens, members, label = (np.array(column) for column in zip(*rows))  # noqa: B905
  unknown = np.full((len(label), 2), np.nan, np.float32)
  prob = np.full((len(label), 2, 2), np.nan, np.float32)
  prob[:, 0, 1], prob[:, 1, 0] = label, 1 - label
  return Preferences(
    images=images.read(),
    tokens=tokens.astype(np.int32),
    category=np.full(len(label), -1, np.int32),
    members=members.astype(np.int32),
    prob=prob,
    score=unknown,
    strict=unknown,
    source=np.full(2, SOURCES.index("file"), np.int32),
  )
