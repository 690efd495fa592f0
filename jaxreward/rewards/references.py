"""Reference pictures of prompts, for rewards that compare with one.

They are those that the prompts come with, `PromptBatch.source` or `.target`, or
those of a folder. It holds `references.jsonl`, a line per prompt, which is found
by its words (`wordings.ByPrompt`):

  {"prompt": "a red circle", "image": "a.png", "mask": "a_mask.png"}
  {"prompt": "two friends", "faces": ["ann.png", "bob.png"]}

Files are named from the folder on. A prompt without a line scores NaN.
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
from jaxreward.errors import UserError, nearest, shown
from jaxreward.rewards.contract import Applies, Prepare
from jaxreward.types import Array, ArrayLike, PromptBatch

FILE = "references.jsonl"
_EXAMPLE = '{"prompt": "a red circle", "image": "a.png"}'
FIELDS = ("image", "mask", "faces")  # of a line, that name pictures


def rows(folder: str) -> dict[str, dict[str, Any]]:
  """The lines of a folder by prompt.

  Raises:
    UserError: no such file, or a line that is none of the above.
  """
  path = paths.find(folder, "references") / FILE
  if not path.exists():
    raise UserError(
      f"{reading.name(path)}: no such file; it holds one line per prompt, such"
      f" as {_EXAMPLE}"
    )
  found: dict[str, dict[str, Any]] = {}
  for where, row in reading.rows(path, _EXAMPLE):
    if "prompt" not in row:
      near = nearest("prompt", row)
      raise UserError(
        f'{where}: expected a JSON object with "prompt"{near}, such as'
        f" {_EXAMPLE}"
      )
    prompt = wordings.check_prompt(row["prompt"], where, '"prompt"')
    if prompt in found:
      raise UserError(f'{where}: "{shown(prompt)}" stands there twice')
    found[prompt] = row
  if not found:
    raise UserError(
      f"{reading.name(path)}: it holds no line, such as {_EXAMPLE}"
    )
  return found


def files_of(
  folder: str, prompt: str, row: Mapping[str, Any], field: str
) -> list[str]:
  """Paths that a line names in a field; none where it has no such field.

  Raises:
    UserError: a value that is no name of a file.
  """
  given = row.get(field, [])
  names = [given] if isinstance(given, str) else given
  what = f'{shown(folder, 100)}: "{shown(prompt)}": {field}'
  if not isinstance(names, list):
    raise UserError(
      f"{what} is {shown(repr(given))}, not the name of a file or a list of"
      " names"
    )
  at = paths.expand(folder, "references")
  return [paths.within(at, name, what) for name in names]


def checked(folder: str) -> list[PictureRow]:
  """The pictures of a folder, as they are checked before they are read.

  Raises:
    UserError: see `rows`; or a value that is no name of a file.
  """
  found = []
  for prompt, row in rows(folder).items():
    files = {
      f"{field} {i}" if i else field: path
      for field in FIELDS
      for i, path in enumerate(files_of(folder, prompt, row, field))
    }
    where = f'{shown(folder, 100)}/{FILE}: "{shown(prompt)}"'
    found.append(PictureRow(where, files))
  return found


def pictures(
  folder: str, field: str, size: int, most: int = 1, *, square: bool = False
) -> Prepare | None:
  """Texts -> the pictures of one field; None without a folder.

  Args:
    folder: see the top of the module; empty where prompts bring pictures.
    field: of the lines: a file's name or, where `most` is over 1, several.
    size: length that the shorter side is resampled to. Pictures of one folder
      that are not all of one shape are cut to squares.
    most: pictures per prompt.
    square: cut them to squares anyway.

  Returns:
    A function that gives {"reference": float32 [P, most, h, w, 3],
    "known": bool [P, most]}.

  Raises:
    UserError: an unreadable line or file, a field that is missing, or more
      than `most` pictures.
  """
  if not folder:
    return None
  named: dict[str, list[str]] = {}
  for prompt, row in rows(folder).items():
    files = files_of(folder, prompt, row, field)
    if len(files) > most:
      raise UserError(
        f'{shown(folder, 100)}: "{shown(prompt)}" has {len(files)} {field}, at'
        f" most {most} fit"
      )
    named[prompt] = files
  if not any(named.values()):
    raise UserError(f'{shown(folder, 100)}: no line of {FILE} has "{field}"')
  read = lambda files: [_read(file, size) for file in files]
  kept = dict(zip(named, in_threads(read, named.values()), strict=True))
  shapes = {picture.shape for some in kept.values() for picture in some}
  if square or len(shapes) > 1:
    kept = {
      prompt: [_cut(x, size) for x in some] for prompt, some in kept.items()
    }
  height, width = next(x.shape[:2] for some in kept.values() for x in some)
  given = ByPrompt(kept, f"references={shown(folder, 100)}")

  def prepare(texts: Sequence[str]) -> dict[str, np.ndarray]:
    shape = (len(texts), most, height, width, 3)
    reference, known = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
    for p, text in enumerate(texts):
      for i, picture in enumerate(given.get(text, [])):
        reference[p, i], known[p, i] = picture, True
    return {"reference": reference, "known": known}

  return prepare


def _read(path: str, size: int) -> Float[np.ndarray, "h w 3"]:
  """A picture resampled so that its shorter side is `size`."""
  picture = read_image(path)
  height, width, _ = picture.shape
  scale = size / min(height, width)
  wanted = round(height * scale), round(width * scale)
  return picture if wanted == (height, width) else read_image(path, wanted)


def _cut(
  picture: Float[np.ndarray, "h w 3"], size: int
) -> Float[np.ndarray, "s s 3"]:
  """The middle of a picture whose shorter side is `size`."""
  top, left = ((side - size) // 2 for side in picture.shape[:2])
  return picture[top : top + size, left : left + size]


def has(field: str) -> Applies:
  """Which rows have a picture in a field of PromptBatch."""

  def rows_with(prompts: PromptBatch) -> Array:
    return jnp.isfinite(_own(prompts, field)).all((1, 2, 3))

  return rows_with


def _own(prompts: PromptBatch, field: str) -> ArrayLike:
  found = getattr(prompts, field)
  if found is None:
    raise UserError(
      f"a reward compares with the {field} of the prompts, and these bring none;"
      " name a folder of pictures in its references"
    )
  return found


def given(
  prompts: PromptBatch,
  field: str,
  reference: Float[ArrayLike, "P N h w 3"] | None,
  known: Bool[ArrayLike, "P N"] | None,
) -> tuple[Float[ArrayLike, "P N H W 3"], Bool[ArrayLike, "P N"]]:
  """(pictures, which there are): those of a folder, or else the prompts' own.

  Args:
    prompts: P prompts.
    field: of PromptBatch: "source", "target" or "changes".
    reference: what `pictures` gave; None without a folder.
    known: which of them there are.

  Raises:
    UserError: there is neither.
  """
  if reference is not None and known is not None:
    return reference, known
  there = has(field)(prompts)
  whole = jnp.where(there[:, None, None, None], _own(prompts, field), 0.0)
  return whole[:, None], there[:, None]
