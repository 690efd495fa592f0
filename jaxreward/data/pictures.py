"""The pictures that prompts come with, read or drawn for a batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxreward import paths
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest
from jaxreward.types import PromptBatch

Prompts = Sequence[Prompt]
# Keys of a row of a user's file, and where a batch holds those pictures.
FIELDS = {"image": "source", "target": "target", "mask": "changes"}


@dataclasses.dataclass(frozen=True)
class Files:
  """Pictures of a row of a user's own file; empty where it names none.

  Attributes:
    name: of the picture, as the row gives it.
    text: the prompt.
    image: path of the picture to start from.
    target: path of the exact answer.
    mask: path of a picture that is white where the answer may differ.
    kinds: which of these three any row of the source has.
    where: the row's place, for errors.
  """

  name: str
  text: str
  image: str = ""
  target: str = ""
  mask: str = ""
  kinds: tuple[str, ...] = ("image",)
  where: str = dataclasses.field(default="", compare=False)

  @property
  def meaning(self) -> str:
    return f"{self.text}\n{self.name}"


def files_of(row: dict, where: str, folder: epath.Path) -> Files:
  """The pictures that one row names; `image_checks` looks at the files.

  Args:
    row: with "prompt" and, as text, "image" and possibly "target" and "mask".
    where: the row's place, for errors.
    folder: that the row's names start from.

  Raises:
    UserError: the row, and what is wrong with its names.
  """
  given = {k: row[k] for k in FIELDS if k in row}
  if "image" not in given:
    raise UserError(
      f'{where}: there is no key "image", the picture that the policy starts'
      f" from{nearest('image', row)}"
    )
  found = {}
  for key, name in given.items():
    found[key] = paths.within(folder, name, f'{where}: "{key}"')
  return Files(
    given["image"], row["prompt"], found["image"],
    found.get("target", ""), found.get("mask", ""), where=where,
  )  # fmt: skip


def rows_of(prompts: Prompts) -> list[PictureRow]:
  """The files of prompts, as they are checked; none where a task draws them."""
  return [
    PictureRow(
      row.where, {k: getattr(row, k) for k in FIELDS if getattr(row, k)}
    )
    for row in (prompt.pictures for prompt in prompts)
    if isinstance(row, Files)
  ]


def attach(
  batch: PromptBatch, prompts: Prompts, side: int | tuple[int, int] = 0
) -> PromptBatch:
  """The batch with the pictures of its prompts, if they have some.

  Every process has to call it, with the same prompts: files are read once over
  all of them.

  Args:
    batch: P rows.
    prompts: of the rows.
    side: pixels, or (height, width), to which files are cut and resampled.
  """
  rows = [p.pictures for p in prompts if p.pictures is not None]
  if not rows:
    return batch
  found: dict[str, Any] = {
    FIELDS[key]: _read([getattr(p.pictures, key, "") for p in prompts], side)
    for key in rows[0].kinds
  }
  if "changes" in found:
    mask = found["changes"]
    found["changes"] = np.where(np.isnan(mask), mask, np.round(mask))
  return dataclasses.replace(batch, **found)


def _read(paths: Sequence[str], side: int | tuple[int, int]) -> np.ndarray:
  """Pictures, float32 [P, H, W, 3]; NaN where there is no path."""
  height, width = (side, side) if isinstance(side, int) else side
  found = np.full((len(paths), height, width, 3), np.nan, np.float32)
  there = [row for row, path in enumerate(paths) if path]
  once = list(dict.fromkeys(paths[row] for row in there))
  images = dict(zip(once, read_images(once, side), strict=True))
  for row in there:
    found[row] = images[paths[row]].astype(np.float32) / 255
  return found
