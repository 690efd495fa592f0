"""Rows of a user's preferences on which rewards are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxreward.data import preference_files
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.pictures import Files
from jaxreward.data.preference_rows import PreferenceRow
from jaxreward.data.preference_tables import padded, padded_pairs
from jaxreward.data.prompts import Prompt
from jaxreward.data.sources import Parse
from jaxreward.errors import UserError
from jaxreward.setup import preference_data


@dataclasses.dataclass(frozen=True)
class Table:
  """Q rows of at most N images, which are read when needed.

  Attributes:
    rows: as read.
    prompts: of the rows; those of edits have a source image.
    prob: float [Q, N, N], see `Labels`.
    rating: [Q, N]; NaN where unknown.
    aspects: name -> [Q, N]; NaN where unknown.
    answers: name -> float [Q, N, N], as `prob` for an aspect.
    model: int [Q, N], who drew an image; -1 where unknown.
  """

  rows: tuple[PreferenceRow, ...]
  prompts: tuple[Prompt, ...]
  prob: np.ndarray
  rating: np.ndarray
  aspects: Mapping[str, np.ndarray]
  answers: Mapping[str, np.ndarray]
  model: np.ndarray

  def checked(self) -> list[PictureRow]:
    """The images of all rows, for `image_checks`."""
    return [preference_files.checked(row) for row in self.rows]


def read(
  config: ConfigDict, path: str, parse: Parse, field: str, most: int
) -> Table:
  """The first rows of a source of preferences, read as the config says.

  Args:
    config: of the run.
    path: of the source, see `preference_files.read_rows`.
    parse: words -> prompt.
    field: config field of the path, for errors.
    most: number of rows.

  Raises:
    UserError: the file, its row, and what is wrong there; no labeled pair.
  """
  rows: list[PreferenceRow] = []
  for row in preference_data.rows_of(config, path, field):
    rows.append(row)
    if len(rows) == most:
      break
  prompts = tuple(_prompt(row, parse) for row in rows)
  n = max((len(row.images) for row in rows), default=0)
  ratings_of = lambda lists: padded(lists, n, np.nan, np.float64)
  names = dict.fromkeys(name for row in rows for name in row.aspects)
  aspects = {
    name: ratings_of([row.aspects.get(name, ()) for row in rows])
    for name in names
  }
  models = dict.fromkeys(m for row in rows for m in row.models if m)
  number = {name: i for i, name in enumerate(models)}
  model = padded(
    [[number.get(m, -1) for m in row.models] for row in rows], n, -1, int
  )
  prob = padded_pairs([row.prob for row in rows], n, np.float64)
  nobody = np.zeros((0, 0))
  answers = {
    name: padded_pairs(
      [row.aspect_prob.get(name, nobody) for row in rows], n, np.float64
    )
    for name in dict.fromkeys(name for row in rows for name in row.aspect_prob)
  }
  if not any(
    (np.isfinite(p) & (p != 0.5)).any() for p in (prob, *answers.values())
  ):
    raise UserError(
      f"config.{field}={path}: of {len(rows)} rows none has a pair with a winner,"
      " by which a reward could be judged"
    )
  rating = ratings_of([row.rating for row in rows])
  return Table(tuple(rows), prompts, prob, rating, aspects, answers, model)


def _prompt(row: PreferenceRow, parse: Parse) -> Prompt:
  try:
    prompt = parse(row.prompt)
  except UserError as error:
    raise UserError(
      f'{row.place}: {error}; with config.data.grammar="free" prompts are in any'
      " words"
    ) from error
  if row.source is None:
    return prompt
  name = str(row.source)
  pictures = Files(name, row.prompt, image=row.source, where=row.place)
  return dataclasses.replace(prompt, pictures=pictures)


def images(
  table: Table, side: int, index: np.ndarray, frames: int = 0
) -> np.ndarray:
  """The images of some rows, float32 [B, N, side, W, 3]; NaN where fewer.

  W is the side. With `frames` a file is a clip, whose frames lie side by side.
  """
  n, width = table.prob.shape[1], side * max(frames, 1)
  result = np.full((len(index), n, side, width, 3), np.nan, np.float32)
  where = [
    (b, i, image)
    for b, q in enumerate(index)
    for i, image in enumerate(table.rows[q].images)
  ]
  places = [f'{table.rows[index[b]].place}: "{x.name}"' for b, _, x in where]
  pixels = read_images([image for _, _, image in where], side, places, frames)
  for (b, i, _), image in zip(where, pixels, strict=True):
    result[b, i] = image / np.float32(255)
  return result
