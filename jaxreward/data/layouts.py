"""Which columns of a file are what: a map from columns to `PreferenceRow`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxreward import paths
from jaxreward.data import image_files, preference_rows, wordings
from jaxreward.data.preference_rows import PreferenceRow, quoted
from jaxreward.data.row_images import Cell, RowImage, inside
from jaxreward.errors import UserError, nearest

# Field -> what its column holds, see docs/preferences.md.
FIELDS: Mapping[str, str] = {
  "prompt": "the text",
  "images": "a list of images, or a column for each",
  "source": "the image that an edit starts from",
  "label": "a, b, tie or P(the first is preferred)",
  "rank": "a list or a column each: 1 is the best",
  "order": 'as "A>B=C"',
  "vote": "a list or a column each: more is better",
  "best": '"first": the first image is preferred; no column',
  "tie": "true: the answer is a tie",
  "rating": "a list or a column each",
  "aspects": "a section: aspect -> ratings; or one column of them",
  "answers": "a section: aspect -> label; or one column of them",
  "user": "who answered",
  "confidence": "from 0 to 1",
  "models": "a list or a column each: names of generators",
  "category": "of the row",
  "key": "of the row",
  "keep": "false: nobody answered",
}
LABELS = ("label", "rank", "order", "vote", "best")


@dataclasses.dataclass(frozen=True)
class Layout:
  """A column map.

  Attributes:
    columns: field of `FIELDS` -> its column; several for the images of a row.
    needs: columns by which a row is known to have this layout.
    words: answers besides `preference_rows.WORDS`.
    scale: the ends of ratings.
    aspect_scale: the ends of aspects' ratings; None for those of `scale`.
    prepare: changes a row of the file before its columns are read.
    origin: whose layout it is.
  """

  columns: Mapping[str, Any]
  needs: tuple[str, ...] = ()
  words: Mapping[str, tuple[float, float | None]] = dataclasses.field(
    default_factory=dict
  )
  scale: tuple[float, float] = (0.0, 1.0)
  aspect_scale: tuple[float, float] | None = None
  prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None
  origin: str = ""

  def names(self) -> list[tuple[str, str]]:
    """(field, column) of all columns."""
    return [
      (field, name)
      for field, value in self.columns.items()
      if field != "best"
      for name in _names(value)
    ]


def _names(value: Any) -> list[str]:
  if isinstance(value, Mapping):
    return [name for part in value.values() for name in _names(part)]
  return [value] if isinstance(value, str) else list(value)


def of_columns(
  columns: Mapping[str, Any], base: Layout | None = None
) -> Layout:
  """A user's column map, over those of a layout if there is one.

  Raises:
    UserError: an unknown field, or a value that names no column.
  """
  start = "config.data.layout.columns"
  for field, value in columns.items():
    if field not in FIELDS:
      raise UserError(
        f"{start}.{field}: no such field{nearest(field, FIELDS)}; there are"
        f" {', '.join(FIELDS)}"
      )
    names = (
      _names(value) if isinstance(value, str | list | tuple | Mapping) else []
    )
    if not names or not all(isinstance(n, str) and n for n in names):
      raise UserError(
        f"{start}.{field}={quoted(value)}: it names a column, or several"
      )
  fields = {**(base.columns if base else {}), **columns}
  if base and set(columns) & set(LABELS):
    fields = {
      k: v for k, v in fields.items() if k not in LABELS or k in columns
    }
  for field in ("prompt", "images"):
    if field not in fields:
      raise UserError(f"{start}.{field} is missing; name its column")
  if not set(fields) & {*LABELS, "rating", "aspects", "answers"}:
    raise UserError(
      f"{start}: it names no answers; give one of {', '.join(LABELS)}, rating,"
      " aspects, answers"
    )
  if fields.get("best", "first") != "first":
    raise UserError(f'{start}.best={quoted(fields["best"])}: it is "first"')
  layout = base or Layout({})
  return dataclasses.replace(layout, columns=fields, needs=())


class Reader:
  """Reads rows of one file by a layout.

  Args:
    layout: whose columns are read.
    folder: that names of images are relative to.
    table: the file, for images within it.
  """

  def __init__(
    self,
    layout: Layout,
    folder: os.PathLike[str] | str,
    table: os.PathLike[str] | str,
  ):
    self.layout, self.folder, self.table = layout, folder, table

  def __call__(self, row: dict[str, Any], place: str) -> PreferenceRow | None:
    """The row; None if nobody answered.

    Raises:
      UserError: what is wrong with it, without the place.
    """
    layout, columns = self.layout, self.layout.columns
    if layout.prepare is not None:
      row = layout.prepare(row)
    if _is_false(row.get(columns.get("keep", ""), True)):
      return None
    prompt_name = _one(row, columns["prompt"])
    prompt = wordings.check_prompt(row[prompt_name], "", f'"{prompt_name}"')
    images = self._images(row)
    prob, rating = self._labels(row, images)
    aspects = self._aspects(row, images)
    answers = self._answers(row, len(images))
    confidence = self._confidence(row)
    return PreferenceRow(
      place, prompt, images, prob, rating, aspects, answers,
      user=_text(row, columns.get("user")), confidence=confidence,
      source=self._source(row), models=self._models(row, len(images)),
      category=_text(row, columns.get("category")),
      key=_text(row, columns.get("key")),
    )  # fmt: skip

  def _image(self, value: Any, name: str) -> RowImage:
    if isinstance(value, Cell):
      if not image_files.is_image(value.head, name):
        raise UserError(f'"{name}" holds {value.size} bytes of no image')
      return inside(self.table, name, value)
    if isinstance(value, str) and value.strip():
      path = paths.within(self.folder, value, f'"{name}"')
      return RowImage(
        name, os.path.normpath(path) if "://" not in path else path
      )
    raise UserError(f'"{name}" must be text, found {quoted(value)}')

  def _images(self, row: dict[str, Any]) -> tuple[RowImage, ...]:
    name = self.layout.columns["images"]
    if isinstance(name, str):
      values = row[name] if name in row else _lacks(row, name)
      values = preference_rows.listed(values, name)
      for value in values:
        if not isinstance(value, Cell | str) or value == "":
          raise UserError(f'"{name}" holds {quoted(value)}, no file')
      named = [(f"{name}[{i}]", v) for i, v in enumerate(values)]
    else:
      for needed in name[:2]:
        if needed not in row:
          _lacks(row, needed)
      some = (
        [n for n in name if row.get(n) is not None] if len(name) > 2 else name
      )
      named = [(n, row[n]) for n in some]
    if len(named) < 2:
      raise UserError(f"it has {len(named)} images; two or more are compared")
    return tuple(self._image(value, n) for n, value in named)

  def _source(self, row) -> RowImage | None:
    names = self.layout.columns.get("source", ())
    name = next((n for n in _names(names) if n in row), None)
    if name is None or not row[name]:
      return None
    value = row[name]
    return self._image(value[0] if isinstance(value, list) else value, name)

  def _list(self, row, field: str, images) -> tuple[str, list[float]] | None:
    """(name, number per image) of a field; None without it."""
    name = self.layout.columns.get(field)
    return None if name is None else self._numbers(row, name, images)

  def _numbers(self, row, name: Any, images) -> tuple[str, list[float]] | None:
    """(name, number per image) of a column or of several; None if absent."""
    count = len(images)
    if isinstance(name, str):
      if row.get(name) is None:
        return None
      lists = images[0].name.partition("[")[0]
      return name, preference_rows.numbers(row[name], name, count, lists)
    present = [n for n in name if row.get(n) not in (None, "")]
    if not present:
      return None
    values = [row.get(n) for n in name[:count]]
    return name[0], [
      preference_rows.number(v, n)
      for v, n in zip(values, name[:count], strict=True)
    ]

  def _labels(self, row, images) -> tuple[np.ndarray, tuple[float, ...]]:
    """(prob [N, N], N ratings)."""
    columns, count = self.layout.columns, len(images)
    rating = (preference_rows.NAN,) * count
    rated = self._list(row, "rating", images)
    if rated is not None:
      rating = preference_rows.scaled(rated[1], rated[0], self.layout.scale)
    prob = None
    if "label" in columns and columns["label"] in row:
      name = columns["label"]
      share, both = preference_rows.word(row[name], name, self.layout.words)
      prob = preference_rows.of_pair(share, count)
      if both is not None and rated is None:
        rating = (both,) * 2 + (preference_rows.NAN,) * (count - 2)
    elif "order" in columns and columns["order"] in row:
      name = columns["order"]
      prob = preference_rows.of_order(row[name], name, count)
    elif (ranks := self._list(row, "rank", images)) is not None:
      prob = preference_rows.of_ratings([-x for x in ranks[1]])
    elif (votes := self._list(row, "vote", images)) is not None:
      prob = preference_rows.of_ratings(votes[1])
    elif "best" in columns:
      prob = preference_rows.of_ratings([1.0] + [0.0] * (count - 1))
      prob[1:, 1:] = np.nan
    elif set(columns) & set(LABELS) and not self._has_more(row):
      names = _names(next(columns[k] for k in LABELS if k in columns))
      _lacks(row, names[0])
    if prob is None:
      prob = preference_rows.of_ratings(rating)
    if "tie" in columns and _is_true(row.get(columns["tie"])):
      prob = np.where(np.isfinite(prob), np.float32(0.5), np.float32(np.nan))
    return prob, rating

  def _has_more(self, row) -> bool:
    """Whether a row has ratings or aspects in place of a label."""
    others = ("rating", "aspects", "answers")
    names = [n for k in others for n in _names(self.layout.columns.get(k, ()))]
    return any(row.get(n) is not None for n in names)

  def _sections(self, row, field: str) -> dict[str, Any]:
    """Aspect -> its column or columns, and the row that has them."""
    name = self.layout.columns.get(field, {})
    if not isinstance(name, str):
      return dict(name)
    value = row.get(name)
    if value is None:
      return {}
    if not isinstance(value, dict) or not value:
      raise UserError(
        f'"{name}" is {quoted(value)}; expected an object with an entry per'
        " aspect"
      )
    return value

  def _aspects(self, row, images) -> dict[str, tuple[float, ...]]:
    scale = self.layout.aspect_scale or self.layout.scale
    within = isinstance(self.layout.columns.get("aspects"), str)
    aspects = {}
    for aspect, name in self._sections(row, "aspects").items():
      part = {aspect: name} if within else row
      ratings = self._numbers(part, aspect if within else name, images)
      if ratings is not None:
        aspects[aspect] = preference_rows.scaled(ratings[1], ratings[0], scale)
    return aspects

  def _answers(self, row, count: int) -> dict[str, np.ndarray]:
    within = isinstance(self.layout.columns.get("answers"), str)
    answers = {}
    for aspect, name in self._sections(row, "answers").items():
      value = name if within else row.get(name)
      if value is None or value == "":
        continue
      label = aspect if within else name
      share, _ = preference_rows.word(value, label, self.layout.words)
      answers[aspect] = preference_rows.of_pair(share, count)
    return answers

  def _confidence(self, row) -> float:
    name = self.layout.columns.get("confidence")
    if name is None or row.get(name) is None or row[name] == "":
      return 1.0
    value = preference_rows.number(row[name], name)
    if not 0 <= value <= 1:
      raise UserError(f'"{name}" is {quoted(row[name])}; expected 0 to 1')
    return value

  def _models(self, row, count: int) -> tuple[str, ...]:
    name = self.layout.columns.get("models", ())
    values = (
      row.get(name) if isinstance(name, str) else [row.get(n) for n in name]
    )
    if not isinstance(values, list) or not any(values):
      return ()
    if isinstance(name, str) and len(values) != count:
      raise UserError(
        f'it has {count} images and "{name}" {len(values)} entries; they have to'
        " be as many"
      )
    return tuple(str(v) for v in values[:count])


def _one(row, names: Any) -> str:
  """The first of several columns that a row has."""
  names = _names(names)
  return next((n for n in names if n in row), None) or _lacks(row, names[0])


def _lacks(row, name: str) -> Any:
  raise UserError(f'"{name}" is missing{nearest(name, row)}')


def _text(row, name: Any) -> str:
  value = row.get(name) if name is not None else None
  return "" if value is None else str(value)


def _is_true(value: Any) -> bool:
  return value is True or str(value).strip().lower() in ("true", "1", "1.0")


def _is_false(value: Any) -> bool:
  return value is False or str(value).strip().lower() in ("false", "0", "0.0")
