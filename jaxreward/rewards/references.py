"""Reference images of prompts, for rewards that compare with one.

They are those of the prompts, `PromptBatch.source` or `.target`, or those of a
folder. It holds `references.jsonl` with a line per prompt, looked up by the
prompt's words (`wordings.ByPrompt`):

  {"prompt": "a red circle", "image": "a.png", "mask": "a_mask.png"}
  {"prompt": "two friends", "faces": ["ann.png", "bob.png"]}

File names are relative to the folder. A prompt without a line scores NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import in_threads, read_image
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, nearest, require_counts, shown
from jaxreward.rewards.contract import Applies, Prepare
from jaxreward.types import Array, ArrayLike, PromptBatch

FILE = "references.jsonl"
_EXAMPLE = '{"prompt": "a red circle", "image": "a.png"}'
FIELDS = ("image", "mask", "faces")  # of a line, naming image files


def rows(folder: str) -> dict[str, dict[str, Any]]:
  """The lines of a folder by prompt.

  Raises:
    UserError: no such file, or a malformed line.
  """
  path = paths.find(folder, "references") / FILE
  if not path.exists():
    raise UserError(
      f"{reading.name(path)}: no such file; it holds one line per prompt, such"
      f" as {_EXAMPLE}"
    )
  lines: dict[str, dict[str, Any]] = {}
  for where, row in reading.rows(path, _EXAMPLE):
    if "prompt" not in row:
      near = nearest("prompt", row)
      raise UserError(
        f'{where}: expected a JSON object with "prompt"{near}, such as'
        f" {_EXAMPLE}"
      )
    prompt = wordings.check_prompt(row["prompt"], where, '"prompt"')
    if prompt in lines:
      raise UserError(f'{where}: "{shown(prompt)}" appears twice')
    lines[prompt] = row
  if not lines:
    raise UserError(
      f"{reading.name(path)}: it holds no line, such as {_EXAMPLE}"
    )
  return lines


def files_of(
  folder: str, prompt: str, row: Mapping[str, Any], field: str
) -> list[str]:
  """Paths that a line names in a field; none without that field.

  Raises:
    UserError: a value that is not a file name.
  """
  value = row.get(field, [])
  names = [value] if isinstance(value, str) else value
  what = f'{shown(folder, 100)}: "{shown(prompt)}": {field}'
  if not isinstance(names, list):
    raise UserError(
      f"{what} is {shown(repr(value))}, not the name of a file or a list of"
      " names"
    )
  at = paths.expand(folder, "references")
  return [paths.within(at, name, what) for name in names]


def checked(folder: str) -> list[PictureRow]:
  """The image files of a folder, for checks before they are read.

  Raises:
    UserError: see `rows`; or a value that is not a file name.
  """
  records = []
  for prompt, row in rows(folder).items():
    files = {
      f"{field} {i}" if i else field: path
      for field in FIELDS
      for i, path in enumerate(files_of(folder, prompt, row, field))
    }
    where = f'{shown(folder, 100)}/{FILE}: "{shown(prompt)}"'
    records.append(PictureRow(where, files))
  return records


def images_of(
  folder: str, field: str, size: int, most: int = 1, *, square: bool = False
) -> Prepare | None:
  """Texts -> the images of one field; None without a folder.

  Args:
    folder: see the module's docstring; empty where prompts bring images.
    field: of the lines: a file name or, if `most` is above 1, several.
    size: length that the shorter side is resized to. Images of one folder that
      differ in shape are center-cropped to squares.
    most: maximal number of images per prompt.
    square: crop to squares in any case.

  Returns:
    A function that gives {"reference": float32 [P, most, h, w, 3],
    "known": bool [P, most]}.

  Raises:
    UserError: an unreadable line or file, a missing field, or more than `most`
      images.
  """
  require_counts("", image_size=size)
  if not folder:
    return None
  paths_of: dict[str, list[str]] = {}
  for prompt, row in rows(folder).items():
    files = files_of(folder, prompt, row, field)
    if len(files) > most:
      raise UserError(
        f'{shown(folder, 100)}: "{shown(prompt)}" has {len(files)} {field}, at'
        f" most {most} fit"
      )
    paths_of[prompt] = files
  if not any(paths_of.values()):
    raise UserError(f'{shown(folder, 100)}: no line of {FILE} has "{field}"')
  load = lambda files: [_read(file, size) for file in files]
  images = dict(zip(paths_of, in_threads(load, paths_of.values()), strict=True))
  shapes = {picture.shape for group in images.values() for picture in group}
  if square or len(shapes) > 1:
    images = {
      prompt: [_cut(x, size) for x in group] for prompt, group in images.items()
    }
  height, width = next(x.shape[:2] for group in images.values() for x in group)
  by_prompt = ByPrompt(images, f"references={shown(folder, 100)}")

  def prepare(texts: Sequence[str]) -> dict[str, np.ndarray]:
    shape = (len(texts), most, height, width, 3)
    reference, known = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
    for p, text in enumerate(texts):
      for i, picture in enumerate(by_prompt.get(text, [])):
        reference[p, i], known[p, i] = picture, True
    return {"reference": reference, "known": known}

  return prepare


def _read(path: str, size: int) -> Float[np.ndarray, "h w 3"]:
  """An image resized so that its shorter side is `size`."""
  picture = read_image(path)
  height, width, _ = picture.shape
  scale = size / min(height, width)
  target = round(height * scale), round(width * scale)
  return picture if target == (height, width) else read_image(path, target)


def _cut(
  picture: Float[np.ndarray, "h w 3"], size: int
) -> Float[np.ndarray, "s s 3"]:
  """The center square of an image whose shorter side is `size`."""
  top, left = ((side - size) // 2 for side in picture.shape[:2])
  return picture[top : top + size, left : left + size]


def has(field: str) -> Applies:
  """Which rows have an image in a field of PromptBatch."""

  def rows_with(prompts: PromptBatch) -> Array:
    return jnp.isfinite(_own(prompts, field)).all((1, 2, 3))

  return rows_with


def _own(prompts: PromptBatch, field: str) -> ArrayLike:
  images = getattr(prompts, field)
  if images is None:
    raise UserError(
      f"a reward compares with the {field} of the prompts, and these bring none;"
      " name a folder of pictures in its references"
    )
  return images


def resolve(
  prompts: PromptBatch,
  field: str,
  reference: Float[ArrayLike, "P N h w 3"] | None,
  known: Bool[ArrayLike, "P N"] | None,
) -> tuple[Float[ArrayLike, "P N H W 3"], Bool[ArrayLike, "P N"]]:
  """(images, mask): those of a folder, or else the prompts' own.

  Args:
    prompts: P prompts.
    field: of PromptBatch: "source", "target" or "changes".
    reference: what `images_of` gave; None without a folder.
    known: which of them exist.

  Raises:
    UserError: there is neither.
  """
  if reference is not None and known is not None:
    return reference, known
  valid = has(field)(prompts)
  images = jnp.where(valid[:, None, None, None], _own(prompts, field), 0.0)
  return images[:, None], valid[:, None]
