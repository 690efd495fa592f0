"""Batches of one static shape each, from images of any shape.

Each image belongs to the (height, width) whose aspect ratio is nearest. A batch has
rows of one shape; batches of the shapes alternate in proportion to their images.
"""

from __future__ import annotations

from collections.abc import Sequence

import grain
import numpy as np
from jaxtyping import Int

from jaxreward.data import pipeline

Shapes = Sequence[tuple[int, int]]


def nearest(
  sizes: Int[np.ndarray, "N 2"], shapes: Shapes
) -> Int[np.ndarray, "N"]:
  """The shape of each image: nearest in log aspect ratio, then in area.

  Args:
    sizes: (height, width) of the images.
    shapes: (height, width) of the batches.
  """
  logs = lambda x: np.log(np.asarray(x, np.float64))
  height, width = logs(sizes).T
  to_height, to_width = logs(shapes).T
  ratio = np.abs((width - height)[:, None] - (to_width - to_height))
  area = np.abs((width + height)[:, None] - (to_width + to_height))
  # Shapes rounded to multiples of a few pixels count as of one ratio.
  near = ratio <= ratio.min(1, keepdims=True) + 0.01
  return np.where(near, area, np.inf).argmin(1)


def batches(
  shape_of: Int[np.ndarray, "N"], *, seed: int, batch_size: int
) -> grain.MapDataset:
  """Element n: (shape's number, int [batch_size] rows) of step n, without end.

  Rows of a shape are dealt as prompts are (`pipeline`): each once a round.

  Args:
    shape_of: the number of each row's shape; rows of -1 are left out.
    seed: of the shuffles.
    batch_size: rows of a step.
  """
  decks, weights = [], []
  for number in np.unique(shape_of[shape_of >= 0]).tolist():
    members = np.flatnonzero(shape_of == number)
    rows = pipeline.row_dataset(
      len(members), seed=seed, batch_size=batch_size, deck=number
    )

    def named(index, number=number, members=members):
      return number, members[index]

    decks.append(rows.map(named))
    weights.append(len(members))
  return decks[0] if len(decks) == 1 else grain.MapDataset.mix(decks, weights)
