"""Rows of a user's preferences on which rewards are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreward import paths
from jaxreward.data import pair_layouts
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.prompts import Prompt
from jaxreward.data.sources import Parse
from jaxreward.errors import UserError


@dataclasses.dataclass(frozen=True)
class Table:
  """Q rows of at most N images, unread.

  Attributes:
    prompts: of the rows.
    files: per row, its images.
    places: per row, for errors.
    prob: float [Q, N, N], see `Labels`.
    rating: [Q, N]; NaN where unknown.
    aspects: name -> [Q, N]; NaN where unknown.
    model: int [Q, N], who drew an image; -1 where unknown.
    models: their names.
  """

  prompts: tuple[Prompt, ...]
  files: tuple[tuple[Any, ...], ...]
  places: tuple[str, ...]
  prob: np.ndarray
  rating: np.ndarray
  aspects: Mapping[str, np.ndarray]
  model: np.ndarray
  models: tuple[str, ...]

  def checked(self) -> list[PictureRow]:
    """The images of all rows, for `image_checks`; equal ones are allowed."""
    return [
      PictureRow(place, {f"image {i}": f for i, f in enumerate(files)}, True)
      for place, files in zip(self.places, self.files, strict=True)
    ]


def read(path: str, parse: Parse, field: str, most: int) -> Table:
  """The first rows of a file of preferences.

  Args:
    path: of the file.
    parse: words -> prompt.
    field: config field of the path, for errors.
    most: number of rows.

  Raises:
    UserError: the file, its row, and what is wrong there; no labeled pair.
  """
  source = paths.find(path, field)
  prompts, files, places, tables = [], [], [], []
  for pair in pair_layouts.pairs_of(source):
    if len(prompts) == most:
      break
    try:
      prompts.append(parse(pair.text))
    except UserError as error:
      raise UserError(
        f'{pair.place}: {error}; with config.data.grammar="free" prompts are in'
        " any words"
      ) from error
    files.append(tuple(
      paths.within(source.parent, file, f'{pair.place}: "{name}"')
      for name, file in zip(pair.names, pair.files, strict=True)
    ))  # fmt: skip
    places.append(pair.place)
    p = pair.prob
    tables.append(np.array([[np.nan, p], [1 - p, np.nan]]))
  prob = np.array(tables).reshape(-1, 2, 2)
  if not np.isfinite(prob).any():
    raise UserError(f"{field}={path}: there is no pair with a label")
  unknown = np.full(prob.shape[:2], np.nan)
  return Table(
    tuple(prompts), tuple(files), tuple(places), prob, unknown, {},
    np.full(prob.shape[:2], -1), (),
  )  # fmt: skip


def images(table: Table, side: int, index: np.ndarray) -> np.ndarray:
  """The images of some rows, float32 [B, N, side, side, 3]; 0 where fewer."""
  n = table.prob.shape[1]
  result = np.zeros((len(index), n, side, side, 3), np.float32)
  where = [
    (b, i) for b, q in enumerate(index) for i in range(len(table.files[q]))
  ]
  pixels = read_images(
    [table.files[index[b]][i] for b, i in where], side,
    [table.places[index[b]] for b, _ in where],
  )  # fmt: skip
  for (b, i), image in zip(where, pixels, strict=True):
    result[b, i] = image / np.float32(255)
  return result
