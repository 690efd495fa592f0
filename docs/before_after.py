"""Pictures of a run of the job align, before and after, as one PNG.

  python docs/before_after.py RUN[,RUN...] FILE.png [PER_KIND [COLUMNS [KIND]]]

Rows from top to bottom: what the prompts start from and their exact answers, where
there are any, then before and after, from the same noise; a green frame where all is
right. The first PER_KIND (2) prompts of each category, which no picture has chosen;
after COLUMNS of them, all if it is not said, the rows begin again below. With KIND
those of one category alone. What further runs draw after theirs follows in a row each.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from jaxreward.report import grids

RIGHT = np.array([0, 150, 90], np.uint8)
FRAME = 2  # pixels
SCALE = 2


def _framed(image: np.ndarray, colour: np.ndarray | int) -> np.ndarray:
  """The image [S, S, 3] in a frame."""
  side = image.shape[0] + 2 * FRAME
  canvas = np.empty((side, side, 3), np.uint8)
  canvas[:] = colour
  canvas[FRAME:-FRAME, FRAME:-FRAME] = image
  return canvas


def picture(
  runs: Sequence[pathlib.Path],
  per_kind: int,
  columns: int | None = None,
  only: str | None = None,
) -> bytes:
  """A PNG file; colours in steps of 8, so that it is small."""
  cards = [grids.load_cards(run / "grids" / "cards.npz") for run in runs]
  before, _, texts, beside, _ = cards[0]
  kinds = [text["kind"] for text in texts]
  chosen = [
    i
    for i, kind in enumerate(kinds)
    if kinds[:i].count(kind) < per_kind and only in (None, kind)
  ]
  blank = np.full_like(before[0], grids.PAPER)
  rows = [
    [_framed(beside[name].get(i, blank), grids.PAPER) for i in chosen]
    for name in grids.BESIDE
    if name in beside and set(chosen) & set(beside[name])
  ]
  drawn = [(before, texts, "ok_before")]
  drawn += [(after, said, "ok_after") for _, after, said, _, _ in cards]
  for images, said, key in drawn:
    rows.append(
      [
        _framed(images[i], RIGHT if said[i][key] else grids.PAPER)
        for i in chosen
      ]
    )
  columns = columns or len(chosen)
  rows = [
    row[start : start + columns]
    for start in range(0, len(chosen), columns)
    for row in rows
  ]
  empty = _framed(blank, grids.PAPER)
  rows = [row + [empty] * (columns - len(row)) for row in rows]
  cells = np.array(rows).reshape(-1, *rows[0][0].shape)
  cells = np.minimum((cells.astype(int) + 4) // 8 * 8, 255).astype(np.uint8)
  return grids.image_grid_png(cells, SCALE, columns)


if __name__ == "__main__":
  folder, path, *options = sys.argv[1:]
  per_kind = int(options[0]) if options else 2
  columns = int(options[1]) if len(options) > 1 else None
  pathlib.Path(path).write_bytes(
    picture(
      [pathlib.Path(f) for f in folder.split(",")],
      per_kind,
      columns,
      *options[2:],
    )
  )
