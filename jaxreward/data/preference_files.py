"""One reader for preferences in any file: `read_rows`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from jaxreward import paths, processes, reading
from jaxreward.data import layouts, public_layouts, table_files
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.layouts import Layout, Reader
from jaxreward.data.preference_rows import PreferenceRow
from jaxreward.errors import UserError, nearest

COLUMNS = public_layouts.LAYOUTS["pairs"].needs


_COUNTS = ("rows", "unlabeled", "unsure", "malformed")


@dataclasses.dataclass
class Tally:
  """What became of the rows of a source.

  Attributes:
    skip: share of malformed rows that may be left out.
    rows: that were read.
    unlabeled: that nobody answered.
    unsure: below the least confidence.
    malformed: that were left out.
    first: what is wrong with the first of them.
  """

  skip: float = 0.0
  rows: int = 0
  unlabeled: int = 0
  unsure: int = 0
  malformed: int = 0
  first: str = ""

  def refuse(self, error: UserError) -> None:
    """Counts a malformed row.

    Raises:
      UserError: none may be left out.
    """
    if not self.skip:
      raise error
    self.malformed += 1
    self.first = self.first or str(error)

  def finish(self, name: str) -> None:
    """Logs what was left out.

    Raises:
      UserError: it is more than the share.
    """
    total = self.rows + self.unlabeled + self.unsure + self.malformed
    if self.malformed > self.skip * total:
      raise UserError(
        f"{name}: {self.malformed} of {total} rows are malformed, more than"
        f" config.data.reading.skip={self.skip:g} allows; first: {self.first}"
      )
    if not processes.is_first():
      return
    if self.malformed:
      logging.warning(
        "%s: %d of %d rows are malformed and left out, first: %s",
        name, self.malformed, total, self.first,
      )  # fmt: skip
    if self.unlabeled or self.unsure:
      logging.info(
        "%s: %d rows without an answer and %d of little confidence are left"
        " out", name, self.unlabeled, self.unsure,
      )  # fmt: skip

  def counts(self) -> dict[str, int]:
    """By name, for metrics."""
    return {name: getattr(self, name) for name in _COUNTS}

  def add(self, other: Tally) -> None:
    """Counts the rows of another source too."""
    for name, count in other.counts().items():
      setattr(self, name, getattr(self, name) + count)


def layout_of(
  name: str, columns: Mapping[str, Any] | None = None
) -> Layout | None:
  """The layout of `config.data.layout`; None if each row's columns decide.

  Args:
    name: "auto", "columns", or one of `public_layouts.LAYOUTS`.
    columns: a map of the user's, over the layout's own.

  Raises:
    UserError: an unknown name, or a map that fits none.
  """
  known = ("auto", "columns", *public_layouts.LAYOUTS)
  if name not in known:
    raise UserError(
      f'config.data.layout.name="{name}": no such layout{nearest(name, known)};'
      f" there are {', '.join(known)}"
    )
  base = public_layouts.LAYOUTS.get(name)
  if columns:
    return layouts.of_columns(columns, base)
  if name == "columns":
    raise UserError(
      "config.data.layout.columns is empty; name the columns, as"
      " columns.prompt=caption"
    )
  return base


def read_rows(
  path: object,
  layout: Layout | str = "auto",
  *,
  columns: Mapping[str, Any] | None = None,
  scale: tuple[float, float] | None = None,
  images: str = "",
  split: str = "",
  confidence: float = 0.0,
  skip: float = 0.0,
  field: str = "",
  tally: Tally | None = None,
) -> Iterator[PreferenceRow]:
  """Rows of a file, a pattern or a folder, in order; see `table_files`.

  Args:
    path: of the source.
    layout: or its name, see `layout_of`.
    columns: a user's column map, with the name of a layout.
    scale: ends of ratings, in place of the layout's.
    images: folder that names of images are relative to; the file's by default.
    split: of a folder that has several.
    confidence: rows of less are left out.
    skip: share of malformed rows that may be left out.
    field: config field of the path, for errors.
    tally: counts the rows.

  Raises:
    UserError: the file, its row, and what is wrong there; once the rows are
      used up also for more malformed rows than `skip` allows.
  """
  tally = Tally() if tally is None else tally
  tally.skip = skip
  if isinstance(layout, str):
    chosen = layout_of(layout, columns)
  else:
    chosen = layout
  folder = paths.find(images, "config.data.reading.images") if images else None
  for part in table_files.parts(path, split, field):
    yield from _rows_of(
      part, chosen, columns or {}, scale, folder, confidence, tally
    )
  tally.finish(reading.name(str(path)))


def _rows_of(part, layout, columns, scale, folder, confidence, tally):
  readers: dict[Any, Reader] = {}
  is_first = True

  def reader_of(row: dict[str, Any]) -> Reader:
    key = "" if layout is not None else public_layouts.named(row)
    if key is None:
      raise _unknown(row)
    if key not in readers:
      chosen = layout if layout is not None else public_layouts.LAYOUTS[key]
      if scale is not None:
        chosen = dataclasses.replace(chosen, scale=scale, aspect_scale=None)
      readers[key] = Reader(chosen, folder or part.folder, part.path)
    return readers[key]

  for place, row in part.rows():
    if not isinstance(row, UserError) and is_first:
      is_first = False
      _require_columns(row, layout, columns, part)
    try:
      if isinstance(row, UserError):
        raise row
      record = _placed(reader_of, row, place)
    except UserError as error:
      tally.refuse(error)
      continue
    if record is None:
      tally.unlabeled += 1
    elif record.confidence < confidence:
      tally.unsure += 1
    else:
      tally.rows += 1
      yield record


def _placed(reader_of, row, place) -> PreferenceRow | None:
  try:
    return reader_of(row)(row, place)
  except UserError as error:
    text = str(error).removeprefix(": ")
    raise UserError(f"{place}: {text}") from error


def _unknown(row: Mapping[str, Any]) -> UserError:
  missing = next((name for name in COLUMNS if name not in row), "label")
  return UserError(
    f'"{missing}" is missing{nearest(missing, row)}; a pair has'
    f" {', '.join(COLUMNS)}, or columns of another layout (docs/preferences.md)"
  )


def _require_columns(row, layout, columns, part) -> None:
  """Refuses a file without a column that the config names."""
  if layout is None or not columns:
    return
  if layout.prepare is not None:
    row = layout.prepare(row)
  for field, name in Layout(columns).names():
    if name not in row:
      raise UserError(
        f"{reading.name(part.path)}: config.data.layout.columns.{field}="
        f'"{name}": the file has no such column{nearest(name, row)}; it has'
        f" {', '.join(list(row)[:12])}"
      )


def checked(row: PreferenceRow) -> PictureRow:
  """The images of a row, for `image_checks`."""
  names: Sequence[str] = public_layouts.PAIR
  if len(row.images) != 2:
    names = [image.name for image in row.images]
  files: dict[str, Any] = dict(zip(names, row.images, strict=True))
  if row.source is not None:
    files["source"] = row.source
  return PictureRow(row.place, files, row.is_tie)
