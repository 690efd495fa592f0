"""Rows of files as `Preferences`, their images by number."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxreward.data.preference_rows import PreferenceRow
from jaxreward.data.preferences import SOURCES, Preferences
from jaxreward.data.row_images import RowImage
from jaxreward.errors import UserError

Tokenize = Callable[[str], np.ndarray]  # UserError for unknown words
SplitOf = Callable[[str], "str | None"]
FILE = SOURCES.index("file")


@dataclasses.dataclass(frozen=True)
class PreferenceTable:
  """Q rows without pixels.

  Attributes:
    rows: members and contexts are indices into `files`; `images` is empty.
    files: M images.
    places: where each is first named.
    texts: prompts of the rows.
  """

  rows: Preferences
  files: tuple[RowImage, ...]
  places: tuple[str, ...]
  texts: tuple[str, ...]

  def __len__(self) -> int:
    return len(np.asarray(self.rows.category))


def is_heldout(
  text: str, split_of: SplitOf | None = None, share: float = 0.2
) -> bool:
  """Whether a prompt is held out, by the task's split or a hash of its words.

  All rows of one prompt are on one side.
  """
  split = None if split_of is None else split_of(text)
  if split is not None:
    return split != "train"
  words = " ".join(text.lower().replace(".", " ").split())
  return zlib.crc32(words.encode()) % 10_000 < round(share * 10_000)


class Builder:
  """Collects rows of one side.

  Args:
    tokenize: prompt -> word ids, int32 [L].
  """

  def __init__(self, tokenize: Tokenize):
    self.tokenize = tokenize
    self.numbers: dict[str, int] = {}
    self.files: list[RowImage] = []
    self.places: list[str] = []
    self.rows: list[PreferenceRow] = []
    self.members: list[list[int]] = []
    self.contexts: list[int] = []
    self.tokens: list[np.ndarray] = []

  def _number(self, image: RowImage, place: str) -> int:
    number = self.numbers.setdefault(image.key, len(self.files))
    if number == len(self.files):
      self.files.append(image)
      self.places.append(f'{place}: "{image.name}"')
    return number

  def add(self, row: PreferenceRow) -> None:
    """Adds a row.

    Raises:
      UserError: unknown words, with the row's place.
    """
    try:
      tokens = self.tokenize(row.prompt)
    except UserError as error:
      raise UserError(f"{row.place}: {error}") from error
    members = [self._number(image, row.place) for image in row.images]
    self.tokens.append(tokens)
    self.members.append(members)
    self.contexts.append(
      -1 if row.source is None else self._number(row.source, row.place)
    )
    images = tuple(_bare(image) for image in row.images)
    self.rows.append(dataclasses.replace(row, images=images, source=None))

  def table(
    self,
    users: Sequence[str] | None = None,
    aspects: Sequence[str] | None = None,
  ) -> PreferenceTable:
    """The rows as arrays.

    Args:
      users: known ones, others are -1; by default those of the rows.
      aspects: likewise; others are left out.
    """
    names = {r.user for r in self.rows if r.user}
    users = tuple(sorted(names)) if users is None else tuple(users)
    if aspects is None:
      both = (n for r in self.rows for n in (*r.aspects, *r.aspect_prob))
      aspects = tuple(dict.fromkeys(both))
    aspects = tuple(aspects)
    most = max(map(len, self.members), default=2)
    prob = [r.prob for r in self.rows]
    rows = Preferences(
      images=np.zeros((0, 1, 1, 3), np.uint8),
      tokens=np.stack(self.tokens).astype(np.int32),
      category=np.full(len(self.rows), -1, np.int32),
      members=padded(self.members, most, -1, np.int32),
      prob=padded_pairs(prob, most, np.float32),
      score=padded([r.rating for r in self.rows], most, np.nan, np.float32),
      strict=np.full((len(self.rows), most), np.nan, np.float32),
      source=self._generators(most),
      user=self._users(users),
      aspects=self._aspects(aspects, most),
      aspect_prob=self._answers(aspects, most),
      confidence=self._confidence(),
      context=self._context(),
      users=users,
      aspect_names=aspects,
    )
    return PreferenceTable(
      rows, tuple(self.files), tuple(self.places),
      tuple(row.prompt for row in self.rows),
    )  # fmt: skip

  def _generators(self, most: int) -> np.ndarray:
    names = sorted({m for r in self.rows for m in r.models})
    number = {name: len(SOURCES) + i for i, name in enumerate(names)}
    lists = [
      [number[m] for m in r.models] or [FILE] * len(r.images) for r in self.rows
    ]
    return padded(lists, most, -1, np.int32)

  def _users(self, users: tuple[str, ...]) -> np.ndarray | None:
    number = {name: i for i, name in enumerate(users)}
    numbers = [number.get(r.user, -1) for r in self.rows]
    return np.array(numbers, np.int32) if users else None

  def _aspects(self, names: tuple[str, ...], most: int) -> np.ndarray | None:
    if not any(r.aspects for r in self.rows):
      return None
    table = np.full((len(self.rows), most, len(names)), np.nan, np.float32)
    for a, name in enumerate(names):
      ratings = [r.aspects.get(name, ()) for r in self.rows]
      table[..., a] = padded(ratings, most, np.nan, np.float32)
    return table

  def _answers(self, names: tuple[str, ...], most: int) -> np.ndarray | None:
    if not any(r.aspect_prob for r in self.rows):
      return None
    shape = (len(self.rows), most, most, len(names))
    table, none = np.full(shape, np.nan, np.float32), np.zeros((0, 0))
    for a, name in enumerate(names):
      prob = [r.aspect_prob.get(name, none) for r in self.rows]
      table[..., a] = padded_pairs(prob, most, np.float32)
    return table

  def _confidence(self) -> np.ndarray | None:
    values = np.array([r.confidence for r in self.rows], np.float32)
    return values if (values < 1).any() else None

  def _context(self) -> np.ndarray | None:
    values = np.array(self.contexts, np.int32)
    return values if (values >= 0).any() else None


def _bare(image: RowImage) -> RowImage:
  return image if image.cell is None else dataclasses.replace(image, cell=None)


def padded(lists: Sequence[Sequence], most: int, fill, dtype) -> np.ndarray:
  """[Q, N] from Q lists of up to N."""
  table = np.full((len(lists), most), fill, dtype)
  for i, values in enumerate(lists):
    table[i, : len(values)] = values
  return table


def padded_pairs(
  tables: Sequence[np.ndarray], most: int, dtype: Any
) -> np.ndarray:
  """[Q, N, N] from Q square tables of up to N; NaN beyond them."""
  result = np.full((len(tables), most, most), np.nan, dtype)
  for i, table in enumerate(tables):
    n = len(table)
    result[i, :n, :n] = table
  return result


def sides_of(
  rows: Iterable[PreferenceRow],
  *,
  tokenize: Tokenize,
  split_of: SplitOf | None = None,
  share: float = 0.2,
) -> tuple[Builder, Builder]:
  """(training, held-out) rows, split by prompt.

  Raises:
    UserError: see `Builder.add`.
  """
  train, heldout = Builder(tokenize), Builder(tokenize)
  for row in rows:
    (heldout if is_heldout(row.prompt, split_of, share) else train).add(row)
  return train, heldout


def check_sides(train: Builder, heldout: Builder, name: str) -> None:
  """Refuses sides that cannot be trained and tested on.

  Raises:
    UserError: a side without a row, or an image on both.
  """
  for builder, side in ((train, "training"), (heldout, "held-out")):
    if not builder.rows:
      raise UserError(
        f"{name}: none of its rows is on the {side} side; rows are split by"
        " prompt, so more prompts are needed"
      )
  members_of = lambda b: {i for members in b.members for i in members}
  keys = [
    {b.files[i].key: b.files[i] for i in members_of(b)}
    for b in (train, heldout)
  ]
  shared = sorted(str(keys[0][k]) for k in set(keys[0]) & set(keys[1]))
  if shared:
    raise UserError(
      f"{name}: {shared[0]} belongs to training and to held-out prompts;"
      " an image may be on one side only: remove its rows from one of them"
    )


def require_answers(train: Builder, name: str) -> None:
  """Refuses training rows that are ties alone.

  Raises:
    UserError: they are, and none is rated.
  """
  has_rating = any(np.isfinite(r.rating).any() for r in train.rows)
  has_aspect = any(r.aspects for r in train.rows)
  is_tied = all(row.is_tie for row in train.rows)
  if is_tied and not (has_rating or has_aspect):
    raise UserError(
      f'{name}: all {len(train.rows)} training rows are a "tie", which teaches'
      " nothing; give rows with an answer"
    )


def teaches(rows: Preferences) -> np.ndarray:
  """bool [Q]: rows with a label or a rating."""
  is_labeled = np.isfinite(np.asarray(rows.prob)).any((1, 2))
  is_labeled |= np.isfinite(np.asarray(rows.score)).any(1)
  for extra in (rows.aspects, rows.aspect_prob):
    if extra is not None:
      extra = np.asarray(extra)
      is_labeled |= np.isfinite(extra).reshape(len(extra), -1).any(1)
  return np.asarray(is_labeled)
