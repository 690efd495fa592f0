"""Reference pictures of prompts, for rewards that compare with one.

They are those that the prompts come with, `PromptBatch.source` or `.target`, or
those of a folder. It holds `references.jsonl`, a line per prompt:

  {"prompt": "a red circle", "image": "a.png", "mask": "a_mask.png"}
  {"prompt": "two friends", "faces": ["ann.png", "bob.png"]}

Files are named from the folder on. A prompt without a line scores NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import in_threads, read_image
from jaxreward.errors import UserError, shown
from jaxreward.rewards.contract import Applies, Prepare
from jaxreward.types import Array, ArrayLike, PromptBatch

FILE = "references.jsonl"
FIELDS = ("image", "mask", "faces")  # of a line, that name pictures


def rows(folder: str) -> dict[str, dict[str, Any]]:
  """The lines of a folder by prompt.

  Raises:
    UserError: no such file, or a line that is none of the above.
  """
  path = epath.Path(folder) / FILE
  try:
    lines = path.read_text().splitlines()
  except OSError as error:
    raise UserError(
      f"{path}: no such file; it holds one line per prompt, such as"
      ' {"prompt": "a red circle", "image": "a.png"}'
    ) from error
  found: dict[str, dict[str, Any]] = {}
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      prompt = row["prompt"]
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{path}:{number}: expected a JSON object with "prompt"'
      ) from error
    if prompt in found:
      raise UserError(f'{path}:{number}: "{prompt}" stands there twice')
    found[prompt] = row
  return found


def names_of(folder: str, prompt: str, row: Mapping[str, Any], field: str):
  """The files that a line names in a field; none where it has no such field.

  Raises:
    UserError: a value that is no name.
  """
  given = row.get(field, [])
  names = [given] if isinstance(given, str) else given
  if not isinstance(names, list) or not all(
    isinstance(name, str) and name for name in names
  ):
    raise UserError(
      f'{epath.Path(folder) / FILE}: "{shown(prompt)}" has "{field}":'
      f" {shown(given)}; expected the name of a file, or a list of names"
    )
  return names


def checked(folder: str) -> list[PictureRow]:
  """The pictures of a folder, as they are checked before they are read.

  Raises:
    UserError: see `rows`; or a value that is no name of a file.
  """
  at = epath.Path(folder)
  found = []
  for prompt, row in rows(folder).items():
    files = {
      f"{field} {i}" if i else field: str(at / name)
      for field in FIELDS
      for i, name in enumerate(names_of(folder, prompt, row, field))
    }
    found.append(PictureRow(f'{at / FILE}: "{shown(prompt)}"', files))
  return found


def pictures(
  folder: str, field: str, size: int, most: int = 1
) -> Prepare | None:
  """Texts -> the pictures of one field; None without a folder.

  Args:
    folder: see the top of the module; empty where prompts bring pictures.
    field: of the lines: a file's name or, where `most` is over 1, several.
    size: side that pictures are cut and resampled to.
    most: pictures per prompt.

  Returns:
    A function that gives {"reference": float32 [P, most, size, size, 3],
    "known": bool [P, most]}.

  Raises:
    UserError: an unreadable line or file, a field that is missing, or more
      than `most` pictures.
  """
  if not folder:
    return None
  paths: dict[str, list[epath.Path]] = {}
  at = epath.Path(folder)
  for prompt, row in rows(folder).items():
    names = names_of(folder, prompt, row, field)
    if len(names) > most:
      raise UserError(
        f'{folder}: "{prompt}" has {len(names)} {field}, at most {most} fit'
      )
    paths[prompt] = [at / name for name in names]
  if not any(paths.values()):
    raise UserError(f'{folder}: no line of {FILE} has "{field}"')
  read = lambda of_one: [read_image(path, size) for path in of_one]
  kept = dict(zip(paths, in_threads(read, paths.values()), strict=True))

  def prepare(texts: Sequence[str]) -> dict[str, np.ndarray]:
    shape = (len(texts), most, size, size, 3)
    reference, known = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
    for p, text in enumerate(texts):
      for i, picture in enumerate(kept.get(text, [])):
        reference[p, i], known[p, i] = picture, True
    return {"reference": reference, "known": known}

  return prepare


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
