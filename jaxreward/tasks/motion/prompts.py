"""Prompts of moving scenes, their meanings and splits.

standing   one shape that does not move
moving     one that moves at a constant speed
paced      one that moves slowly, or fast
falling    one that falls and stays down
bouncing   one that falls and bounces back
two        two shapes that move along one axis, side by side
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

import flax.struct
import numpy as np

from jaxreward.data import prompts as prompts_lib
from jaxreward.errors import UserError, nearest, shown
from jaxreward.tasks.motion import paths
from jaxreward.tasks.scenes.grammar import COLOURS, SHAPES, VOCAB
from jaxreward.types import ArrayLike, PromptBatch

KINDS = ("standing", "moving", "paced", "falling", "bouncing", "two")
FIRST = 27  # numbers of categories are part of random streams
CATEGORIES = dict(enumerate(KINDS, FIRST))
OBJECTS = 2
PAIRS = 600  # number of sampled pairs of objects
MAX_WORDS = 11
SILENT = ("a", "an", "the")
VOCABULARY = tuple(
  dict.fromkeys(
    (
      *VOCAB, *" ".join(paths.MOTIONS).split()
    )
  )
)  # fmt: skip
_IDS = {word: i for i, word in enumerate(VOCABULARY)}
# Faults of a video.
NOTHING, JUMPS, CHANGES = range(3)

Item = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Prompt(prompts_lib.Prompt):
  """One prompt: its words, and (colour, shape, motion) of each object."""

  items: tuple[Item, ...] = ()


@flax.struct.dataclass
class Asked:
  """What P prompts ask for: the `extras` of their batch.

  Attributes:
    items: int32 [P, 2, 3], (colour, shape, motion), -1 where there is no object.
    fault: int32 [P], of the first object in training videos: 0 for none, 1 if
      it jumps, 2 if its colour or its shape changes.
  """

  items: ArrayLike
  fault: ArrayLike


def describe(items: Sequence[Item]) -> str:
  """As "a red circle falling and a blue square standing still"."""
  return " and ".join(
    f"a {COLOURS[c]} {SHAPES[s]} {paths.MOTIONS[m]}" for c, s, m in items
  )


def kind_of(items: Sequence[Item]) -> str:
  """The category of a prompt."""
  motion = items[0][-1]
  if len(items) > 1:
    return "two"
  if motion in (paths.STANDING, paths.FALLING, paths.BOUNCING):
    return paths.MOTIONS[motion].split()[0]
  return "moving" if len(paths.MOTIONS[motion].split()) == 2 else "paced"


def _is_pair(a: Item, b: Item) -> bool:
  """Whether two objects differ, move, and have an axis to move along."""
  motions = a[-1], b[-1]
  across, down = (
    any(table[m] for m in motions)
    for table in (paths.HORIZONTAL, paths.VERTICAL)
  )
  return a[:2] != b[:2] and across != down


def _meanings() -> Iterable[tuple[Item, ...]]:
  """The objects of every prompt, in a fixed order."""
  sizes = len(COLOURS), len(SHAPES), len(paths.MOTIONS)
  for item in itertools.product(*map(range, sizes)):
    yield (item,)
  rng = np.random.default_rng(0)
  for _ in range(PAIRS):
    a, b = (tuple(map(int, row)) for row in rng.integers(0, sizes, (2, 3)))
    if _is_pair(a, b):
      yield a, b


@functools.cache
def all_prompts() -> tuple[Prompt, ...]:
  """Every prompt, in a fixed order."""
  rows = {describe(items): items for items in _meanings()}
  number = lambda items: FIRST + KINDS.index(kind_of(items))
  by_category: dict[int, list[str]] = {}
  for text, items in rows.items():
    by_category.setdefault(number(items), []).append(text)
  splits = prompts_lib.split_names(by_category)
  return tuple(
    Prompt(text, number(items), splits[text], items=items)
    for text, items in rows.items()
  )


@functools.cache
def prompts(split: str | None) -> tuple[Prompt, ...]:
  """Prompts of a split; of all if None."""
  return tuple(p for p in all_prompts() if split in (None, p.split))


@functools.cache
def _splits() -> dict[str, str]:
  return {p.text: p.split for p in all_prompts()}


def _words(text: str) -> list[str]:
  words = [w for w in text.lower().split() if w not in SILENT]
  for word in words:
    if word not in _IDS:
      raise UserError(
        f"prompt {shown(text, 80)}: the word {shown(word, 30)} is not known"
        f"{nearest(word, VOCABULARY[1:])}"
      )
  return words


def tokenize(text: str) -> np.ndarray:
  """Word ids, int32 [MAX_WORDS].

  Raises:
    UserError: an unknown word, or too many.
  """
  words = _words(text)
  if len(words) > MAX_WORDS:
    raise UserError(
      f"prompt {shown(text, 80)} has {len(words)} words; at most {MAX_WORDS} are"
      " read, articles apart"
    )
  ids = [_IDS[w] for w in words]
  return np.array(ids + [0] * (MAX_WORDS - len(ids)), np.int32)


def parse(text: str) -> Prompt:
  """Parses a description, also one written by a user.

  Raises:
    UserError: what is wrong with the text, and the fix.
  """
  tokenize(text)
  items = []
  for part in " ".join(_words(text)).split(" and "):
    colour, shape, motion = (*part.split(maxsplit=2), "", "", "")[:3]
    if (
      colour not in COLOURS
      or shape not in SHAPES
      or motion not in paths.MOTIONS
    ):
      raise UserError(
        f"prompt {shown(text, 80)}: expected a colour, a shape and a motion of each"
        f' object, as in "{describe([(0, 0, 2)])}"; motions are'
        f" {', '.join(paths.MOTIONS)}"
      )
    items.append(
      (COLOURS.index(colour), SHAPES.index(shape), paths.MOTIONS.index(motion))
    )
  if len(items) > OBJECTS or (len(items) == OBJECTS and not _is_pair(*items)):
    raise UserError(
      f"prompt {shown(text, 80)}: at most {OBJECTS} objects that differ, and move"
      " both across or both up and down"
    )
  plain = describe(items)
  split = _splits().get(plain, "heldout")
  return Prompt(
    plain, FIRST + KINDS.index(kind_of(items)), split, items=tuple(items)
  )


def split_of(text: str) -> str | None:
  """The split of a description; None for any other text."""
  try:
    return parse(text).split
  except UserError:
    return None


def batch(chosen: Sequence[Prompt], size: int | None = None) -> PromptBatch:
  """Prompts as a PromptBatch of NumPy arrays, padded to `size` rows."""
  rows = prompts_lib.batch(chosen, size)
  count = len(rows.ids)
  extras = Asked(
    np.full((count, OBJECTS, 3), -1, np.int32), np.zeros(count, np.int32)
  )
  tokens = np.zeros((count, MAX_WORDS), np.int32)
  for i, prompt in enumerate(chosen):
    tokens[i] = tokenize(prompt.text)
    extras.items[i, : len(prompt.items)] = prompt.items
  return dataclasses.replace(rows, tokens=tokens, extras=extras)
