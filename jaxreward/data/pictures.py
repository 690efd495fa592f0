"""The pictures that prompts come with, read or drawn for a batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jaxreward import paths
from jaxreward.data.images import read_images
from jaxreward.data.scenes import edits, grammar
from jaxreward.errors import UserError, nearest, one_line
from jaxreward.types import PromptBatch

Prompts = Sequence[grammar.Prompt]
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
  """

  name: str
  text: str
  image: str = ""
  target: str = ""
  mask: str = ""
  kinds: tuple[str, ...] = ("image",)

  @property
  def meaning(self) -> str:
    return f"{self.text}\n{self.name}"


def files_of(row: dict, where: str, folder: epath.Path) -> Files:
  """The pictures of one row, which are there and are pictures.

  Args:
    row: with "prompt" and, as text, "image" and possibly "target" and "mask".
    where: the row's place, for errors.
    folder: that the row's names start from.

  Raises:
    UserError: the row, the file, and what is wrong with it.
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
    _require_picture(found[key], f'{where}: "{key}"')
  return Files(
    given["image"], row["prompt"], found["image"],
    found.get("target", ""), found.get("mask", ""),
  )  # fmt: skip


def _require_picture(path: str, what: str) -> None:
  """Opens a picture without decoding it."""
  try:
    with epath.Path(path).open("rb") as file, Image.open(file):
      return
  except Image.UnidentifiedImageError as error:
    raise UserError(
      f"{what}: {path} is not an image Pillow can read"
    ) from error
  except OSError as error:
    reason = error.strerror or one_line(error)
    raise UserError(f"{what}: {path}: {reason}") from error


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
  tasks = [prompt.task for prompt in prompts if prompt.task is not None]
  if not tasks:
    return batch
  if isinstance(tasks[0], edits.Edit):
    source, answers = edits.draw(prompts)
    return dataclasses.replace(
      batch, source=source, target=edits.targets(prompts, answers),
      changes=edits.changes(prompts), task=edits.expected(prompts),
    )  # fmt: skip
  found: dict[str, Any] = {
    FIELDS[key]: _read([getattr(p.task, key, "") for p in prompts], side)
    for key in tasks[0].kinds
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
