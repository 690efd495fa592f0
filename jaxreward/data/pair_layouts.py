"""Preference files: the columns of published data sets, read as pairs.

  prompt, image_a, image_b, label            "a", "b", "tie" or P(a preferred)
  prompt, chosen, rejected                   files
  prompt or instruction, path1, path2        the first preferred (HPDv3)
  caption, jpg_0, jpg_1, label_0             1, 0 or .5 (Pick-a-Pic, as files)
  prompt, image_path, human_preference       lists, 1 for the better (HPDv2)
  prompt, image_path, rank                   lists, 1 the best (HPDv2's test)
  prompt, generations, ranking               lists, 1 the best (ImageRewardDB)

Lists give every pair of their images.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from jaxreward import reading
from jaxreward.data import wordings
from jaxreward.errors import UserError, nearest, shown

LABELS = {"a": 1.0, "b": 0.0, "tie": 0.5}
FIELDS = ("prompt", "image_a", "image_b", "label")
_EXAMPLE = (
  '{"prompt": "a cross", "image_a": "1.png", "image_b": "2.png", "label": "a"}'
)


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two images of one prompt.

  Attributes:
    place: of the row, for errors.
    text: the prompt.
    names: of the images' columns, for errors.
    files: of the images, as named in the row.
    prob: that the first is preferred.
  """

  place: str
  text: str
  names: tuple[str, str]
  files: tuple[str, str]
  prob: float


def pairs_of(path: os.PathLike[str] | str) -> Iterator[Pair]:
  """Every pair of a .jsonl or .csv file.

  Raises:
    UserError: the file, its line, and what is wrong there.
  """
  for place, row in reading.table(path, _EXAMPLE):
    readers = [
      read for names, read in LAYOUTS.items() if set(names) <= set(row)
    ]
    if not readers:
      raise _unknown(row, place)
    prompt = next(k for k in ("prompt", "instruction", "caption") if k in row)
    wordings.check_prompt(row[prompt], place, f'"{prompt}"')
    try:
      rows = list(readers[0](row))
    except UserError as error:
      raise UserError(f"{place}: {error}") from error
    for names, files, prob in rows:
      yield Pair(place, row[prompt], names, files, prob)


def _unknown(row: dict[str, Any], place: str) -> UserError:
  missing = next(name for name in FIELDS if name not in row)
  return UserError(
    f'{place}: "{missing}" is missing{nearest(missing, row)}; a pair has'
    f" {', '.join(FIELDS)}, or columns of another layout (docs/files.md)"
  )


def _text(row: dict[str, Any], name: str) -> str:
  if not isinstance(row[name], str) or not row[name].strip():
    raise UserError(
      f'"{name}" must be text, found {shown(json.dumps(row[name]))}'
    )
  return row[name]


_Row = tuple[tuple[str, str], tuple[str, str], float]


def _two(first: str, second: str, prob: Callable[[dict[str, Any]], float]):
  def read(row: dict[str, Any]) -> Iterator[_Row]:
    files = _text(row, first), _text(row, second)
    yield (first, second), files, prob(row)

  return read


def _label(row: dict[str, Any]) -> float:
  value = row["label"]
  if isinstance(value, str) and value in LABELS:
    return LABELS[value]
  return _share(
    value,
    f'"label" is {shown(json.dumps(value))}; it must be "a", "b", "tie" or the'
    " probability that a is preferred, from 0 to 1",
  )


def _label_0(row: dict[str, Any]) -> float:
  value = row["label_0"]
  return _share(
    value,
    f'"label_0" is {shown(json.dumps(value))}; it must be 1, 0 or .5, for a tie',
  )


def _share(value: Any, refusal: str) -> float:
  number = reading.number(value)
  if not 0 <= number <= 1:
    raise UserError(refusal)
  return number


def _lists(files: str, order: str, sign: int):
  """Every pair of a list; `sign` is 1 if larger numbers are better."""

  def read(row: dict[str, Any]) -> Iterator[_Row]:
    paths, numbers = row[files], row[order]
    for name, value in ((files, paths), (order, numbers)):
      if not isinstance(value, list) or len(value) < 2:
        raise UserError(
          f'"{name}" is {shown(json.dumps(value))}; expected a list of 2 or more'
        )
    if len(paths) != len(numbers):
      raise UserError(
        f'"{files}" has {len(paths)} entries and "{order}" {len(numbers)}; they'
        " have to be as many"
      )
    for value in numbers:
      if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
          f'"{order}" holds {shown(json.dumps(value))}, no number'
        )
    for path in paths:
      if not isinstance(path, str) or not path.strip():
        raise UserError(f'"{files}" holds {shown(json.dumps(path))}, no file')
    for i, j in itertools.combinations(range(len(paths)), 2):
      gap = sign * (numbers[i] - numbers[j])
      prob = 0.5 if gap == 0 else float(gap > 0)
      yield (f"{files}[{i}]", f"{files}[{j}]"), (paths[i], paths[j]), prob

  return read


def _first(row: dict[str, Any]) -> float:
  del row
  return 1.0


# Columns that identify a layout -> its pairs; the first match is read.
LAYOUTS: dict[tuple[str, ...], Callable[..., Iterator[_Row]]] = {
  FIELDS: _two("image_a", "image_b", _label),
  ("prompt", "chosen", "rejected"): _two("chosen", "rejected", _first),
  ("prompt", "path1", "path2"): _two("path1", "path2", _first),
  ("instruction", "path1", "path2"): _two("path1", "path2", _first),
  ("caption", "jpg_0", "jpg_1", "label_0"): _two("jpg_0", "jpg_1", _label_0),
  ("prompt", "image_path", "human_preference"): _lists(
    "image_path", "human_preference", 1
  ),
  ("prompt", "image_path", "rank"): _lists("image_path", "rank", -1),
  ("prompt", "generations", "ranking"): _lists("generations", "ranking", -1),
}
