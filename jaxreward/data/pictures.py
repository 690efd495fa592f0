"""The images of prompts, read or rendered one batch at a time."""

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
from jaxreward.data.row_images import File
from jaxreward.errors import UserError, nearest
from jaxreward.types import PromptBatch

Prompts = Sequence[Prompt]
# Keys of a row of a user's file -> the batch's field for those images.
FIELDS = {"image": "source", "target": "target", "mask": "changes"}


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files of one row of a user's file; empty where it names none.

  Attributes:
    name: of the image, as given in the row.
    text: the prompt.
    image: the source image.
    target: path of the target image.
    mask: path of a mask, white where the output may differ.
    kinds: which of these three any row of the source has.
    where: the row's place, for errors.
  """

  name: str
  text: str
  image: File = ""
  target: str = ""
  mask: str = ""
  kinds: tuple[str, ...] = ("image",)
  where: str = dataclasses.field(default="", compare=False)

  @property
  def meaning(self) -> str:
    return f"{self.text}\n{self.name}"


def files_of(row: dict, where: str, folder: epath.Path) -> Files:
  """The image files of one row; `image_checks` checks their content.

  Args:
    row: with "prompt" and, as text, "image" and possibly "target" and "mask".
    where: the row's place, for errors.
    folder: that names are relative to.

  Raises:
    UserError: the row, and what is wrong with its names.
  """
  names = {k: row[k] for k in FIELDS if k in row}
  if "image" not in names:
    raise UserError(
      f'{where}: there is no key "image", the picture that the policy starts'
      f" from{nearest('image', row)}"
    )
  files = {}
  for key, name in names.items():
    files[key] = paths.within(folder, name, f'{where}: "{key}"')
  return Files(
    names["image"], row["prompt"], files["image"],
    files.get("target", ""), files.get("mask", ""), where=where,
  )  # fmt: skip


def rows_of(prompts: Prompts) -> list[PictureRow]:
  """The files of prompts, for `image_checks`; none if the task renders them."""
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
  """The batch with the images of its prompts, if there are any.

  Every process has to call it with the same prompts: each file is read by one
  of them.

  Args:
    batch: P rows.
    prompts: of the rows.
    side: pixels, or (height, width), to crop and resize files to.
  """
  rows = [p.pictures for p in prompts if p.pictures is not None]
  if not rows:
    return batch
  fields: dict[str, Any] = {
    FIELDS[key]: _read([getattr(p.pictures, key, "") for p in prompts], side)
    for key in rows[0].kinds
  }
  if "changes" in fields:
    mask = fields["changes"]
    fields["changes"] = np.where(np.isnan(mask), mask, np.round(mask))
  return dataclasses.replace(batch, **fields)


def _read(paths: Sequence[File], side: int | tuple[int, int]) -> np.ndarray:
  """Images, float32 [P, H, W, 3]; NaN where there is no path."""
  height, width = (side, side) if isinstance(side, int) else side
  batch = np.full((len(paths), height, width, 3), np.nan, np.float32)
  rows = [row for row, path in enumerate(paths) if path]
  unique = list(dict.fromkeys(paths[row] for row in rows))
  images = dict(zip(unique, read_images(unique, side), strict=True))
  for row in rows:
    batch[row] = images[paths[row]].astype(np.float32) / 255
  return batch
