"""Reference pictures of prompts, for rewards that compare with one.

They are those that the prompts come with, `PromptBatch.source` or `.target`, or
those of a folder. It holds `references.jsonl`, a line per prompt:

  {"prompt": "a red circle", "image": "a.png", "mask": "a_mask.png"}
  {"prompt": "two friends", "faces": ["ann.png", "bob.png"]}

Files are named from the folder on. A prompt without a line scores NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from jaxreward.data.images import read_image
from jaxreward.errors import UserError
from jaxreward.rewards.contract import Applies, Prepare
from jaxreward.types import Array, ArrayLike, PromptBatch

FILE = "references.jsonl"


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
  paths = _paths(folder, field, most)
  every = [path for some in paths.values() for path in some]
  shape = (size, size) if square else _shape(every, size)
  kept = {
    prompt: [read_image(path, shape) for path in some]
    for prompt, some in paths.items()
  }

  def prepare(texts: Sequence[str]) -> dict[str, np.ndarray]:
    each = (len(texts), most)
    reference = np.zeros((*each, *shape, 3), np.float32)
    known = np.zeros(each, bool)
    for p, text in enumerate(texts):
      for i, picture in enumerate(kept.get(text, [])):
        reference[p, i], known[p, i] = picture, True
    return {"reference": reference, "known": known}

  return prepare


def _paths(folder: str, field: str, most: int) -> dict[str, list[epath.Path]]:
  """The files of a field by prompt, at least one in all."""
  found: dict[str, list[epath.Path]] = {}
  for prompt, row in rows(folder).items():
    names = row.get(field, [])
    names = [names] if isinstance(names, str) else names
    if len(names) > most:
      raise UserError(
        f'{folder}: "{prompt}" has {len(names)} {field}, at most {most} fit'
      )
    found[prompt] = [epath.Path(folder) / name for name in names]
  if not any(found.values()):
    raise UserError(f'{folder}: no line of {FILE} has "{field}"')
  return found


def _shape(paths: Sequence[epath.Path], size: int) -> tuple[int, int]:
  """(height, width) of all pictures once their shorter side is `size`."""
  shapes = set()
  for path in paths:
    height, width, _ = read_image(path).shape
    scale = size / min(height, width)
    shapes.add((round(height * scale), round(width * scale)))
  return shapes.pop() if len(shapes) == 1 else (size, size)


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
