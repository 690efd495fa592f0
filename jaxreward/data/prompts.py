"""A prompt, and batches of them as arrays, for any task."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxreward.data import texts
from jaxreward.errors import UserError, nearest
from jaxreward.types import PromptBatch

SPLITS = ("train", "validation", "heldout")
_HELDOUT_SHARE, _VALIDATION_SHARE = 0.2, 0.1


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One prompt; tasks add what an image must show to satisfy it.

  Attributes:
    text: its words.
    category: number of its category, see `Task.categories`.
    split: "train", "validation" or "heldout".
    pictures: its images, if any: an object with a `name`, which distinguishes
      prompts with the same words, and a `meaning`.
  """

  text: str
  category: int = 0
  split: str = "train"
  pictures: Any = None

  @property
  def key(self) -> str:
    """A unique key: the text and the name of its images."""
    if self.pictures is None:
      return self.text
    return f"{self.text}\n{self.pictures.name}"

  @property
  def prompt_id(self) -> int:
    """Stable 32-bit hash of the key; noise keys are folded with it."""
    return zlib.crc32(self.key.encode())

  @property
  def meaning(self) -> str:
    """Shared by all wordings of one meaning; the unit of the splits."""
    return self.text if self.pictures is None else self.pictures.meaning


P = TypeVar("P", bound=Prompt)


def split_names(by_category: Mapping[int, Iterable[str]]) -> dict[str, str]:
  """Split of every name: the smallest hashes of each category are held out."""
  splits = {}
  for names in by_category.values():
    ordered = sorted(names, key=lambda n: (zlib.crc32(n.encode()), n))
    heldout = max(1, round(_HELDOUT_SHARE * len(ordered)))
    validation = heldout + max(1, round(_VALIDATION_SHARE * len(ordered)))
    for i, name in enumerate(ordered):
      splits[name] = SPLITS[2 if i < heldout else 1 if i < validation else 0]
  return splits


def by_meaning(prompts: Iterable[P]) -> dict[str, list[P]]:
  """All wordings of each meaning."""
  wordings: dict[str, list[P]] = {}
  for prompt in prompts:
    wordings.setdefault(prompt.meaning, []).append(prompt)
  return wordings


def another(prompt: Prompt, wordings: Mapping[str, Sequence[P]]) -> P | None:
  """Another wording of a prompt's meaning; None if there is none."""
  others = wordings.get(prompt.meaning, ())
  return next((p for p in others if p.text != prompt.text), None)


def check_split(split: str) -> None:
  """Rejects an unknown split."""
  if split not in SPLITS:
    raise UserError(f'split "{split}" is not known{nearest(split, SPLITS)}')


def batch(prompts: Sequence[Prompt], size: int | None = None) -> PromptBatch:
  """Prompts as a PromptBatch of NumPy arrays, padded to `size` rows.

  Ids, categories and texts; a task adds tokens and extras.
  """
  size = len(prompts) if size is None else size
  if not prompts or size < len(prompts):
    raise UserError(f"{len(prompts)} prompts do not make a batch of {size}")
  pad = [0] * (size - len(prompts))
  return PromptBatch(
    ids=np.array([*(p.prompt_id for p in prompts), *pad], np.uint32),
    category=np.array([*(p.category for p in prompts), *pad], np.int32),
    mask=np.arange(size) < len(prompts),
    text=texts.encode([p.text for p in prompts], size),
  )
