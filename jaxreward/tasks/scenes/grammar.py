"""A grammar of prompts in the six GenEval categories, and its splits.

A prompt asks for one or two items, each a (count, colour, shape), and possibly
for a relation of the first to the second. Prompts with the same meaning, such
as "a circle left of a square" and "a square right of a circle", share one
combination, and a combination belongs to exactly one split: a held-out one
never occurs in training in any wording.

The categories follow GenEval (Ghosh et al., 2023): single object, two objects,
counting, colours, position, colour attribution.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import flax.struct
import numpy as np

from jaxreward.data import prompts as prompts_lib
from jaxreward.errors import UserError, nearest, shown
from jaxreward.types import ArrayLike, PromptBatch

KINDS = ("single", "two", "counting", "colours", "position", "attribution")
CATEGORIES = dict(enumerate(KINDS))
# Categories of `edits`. Their numbers are part of random streams; 6 is that of
# free-form prompts.
EDITS = ("recolour", "remove", "add", "move", "identity", "upscale")
FIRST_EDIT = 7
EDIT_CATEGORIES = dict(enumerate(EDITS, FIRST_EDIT))
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple")
RELATIONS = ("none", "left of", "right of", "above", "below")
COUNTS = ("a", "two", "three", "four")

MAX_WORDS = 8
MAX_OBJECTS = 4
ANY_COLOUR = -1

_PLURAL = {s: "crosses" if s == "cross" else s + "s" for s in SHAPES}
_OPPOSITE = {0: 0, 1: 2, 2: 1, 3: 4, 4: 3}

VOCAB: tuple[str, ...] = (
  "<pad>",
  *COUNTS,
  "and",
  "left",
  "right",
  "of",
  "above",
  "below",
  *COLOURS,
  *SHAPES,
  *_PLURAL.values(),
)
# Words of instructions, known only to policies with a source image.
EDIT_WORDS: tuple[str, ...] = (
  "make",
  "the",
  "remove",
  "add",
  "move",
  "same",
  "sharpen",
  "picture",
  "top",
  "middle",
  "bottom",
  "centre",
)
_WORD_IDS = {word: i for i, word in enumerate(VOCAB)}
_ALL_IDS = {word: i for i, word in enumerate((*VOCAB, *EDIT_WORDS))}

Item = tuple[int, int, int]  # count, colour (or ANY_COLOUR), shape


@dataclasses.dataclass(frozen=True)
class Prompt(prompts_lib.Prompt):
  """One prompt: its words and what an image must show to satisfy it.

  `pictures` of a prompt with images is an `edits.Edit` or a `pictures.Files`.
  """

  items: tuple[Item, ...] = ()
  relation: int = 0

  @property
  def meaning(self) -> str:
    """Shared by all wordings of one meaning; the unit of the splits."""
    if self.pictures is not None:
      return self.pictures.meaning
    return combination(self.items, self.relation)


@flax.struct.dataclass
class Asked:
  """What P prompts ask for: the `extras` of their batch.

  Attributes:
    items: int32 [P, 2, 3], rows of (count, colour, shape); count 0 means the
      row is absent, colour -1 means any colour.
    relation: int32 [P], index into `RELATIONS`, 0 is none; the first item
      stands in that relation to the second.
    edit: for edits, the objects of the target (`edits.Expected`).
  """

  items: ArrayLike
  relation: ArrayLike
  edit: Any = None


def _item_text(item: Item) -> str:
  count, colour, shape = item
  noun = SHAPES[shape] if count == 1 else _PLURAL[SHAPES[shape]]
  words = [COUNTS[count - 1], noun]
  if colour != ANY_COLOUR:
    words.insert(1, COLOURS[colour])
  return " ".join(words)


def text_of(items: Sequence[Item], relation: int) -> str:
  joint = RELATIONS[relation] if relation else "and"
  return f" {joint} ".join(_item_text(i) for i in items)


def plural(shape: int) -> str:
  """The name of several objects of a shape."""
  return _PLURAL[SHAPES[shape]]


def combination(items: Sequence[Item], relation: int) -> str:
  """Name shared by all wordings of one meaning; the unit of the splits."""
  ordered = list(items)
  if relation in (2, 4):
    ordered, relation = ordered[::-1], _OPPOSITE[relation]
  elif relation == 0:
    ordered = sorted(ordered)
  return f"{relation}:{ordered}"


def _pairs(coloured: bool) -> Iterable[tuple[Item, Item]]:
  colours = (
    list(itertools.permutations(range(len(COLOURS)), 2))
    if coloured
    else [(ANY_COLOUR, ANY_COLOUR)]
  )
  for (s1, s2), (c1, c2) in itertools.product(
    itertools.permutations(range(len(SHAPES)), 2), colours
  ):
    yield (1, c1, s1), (1, c2, s2)


def _meanings() -> Iterable[tuple[int, tuple[Item, ...], int]]:
  """(category, items, relation) of every prompt of the grammar."""
  shapes, colours = range(len(SHAPES)), range(len(COLOURS))
  for shape in shapes:
    yield 0, ((1, ANY_COLOUR, shape),), 0
  for pair in _pairs(coloured=False):
    yield 1, pair, 0
  for count, shape in itertools.product((2, 3, 4), shapes):
    for colour in (ANY_COLOUR, *colours):
      yield 2, ((count, colour, shape),), 0
  for colour, shape in itertools.product(colours, shapes):
    yield 3, ((1, colour, shape),), 0
  for coloured in (False, True):
    for pair, relation in itertools.product(_pairs(coloured), (1, 2, 3, 4)):
      yield 4, pair, relation
  for pair in _pairs(coloured=True):
    yield 5, pair, 0


@functools.cache
def _split_of() -> dict[str, str]:
  """Split of every combination of the grammar."""
  by_category: dict[int, set[str]] = {}
  for category, items, relation in _meanings():
    by_category.setdefault(category, set()).add(combination(items, relation))
  return prompts_lib.split_names(by_category)


@functools.cache
def all_prompts() -> tuple[Prompt, ...]:
  """Every prompt of the grammar, in a fixed order."""
  splits = _split_of()
  return tuple(
    Prompt(
      text_of(items, relation),
      category,
      splits[combination(items, relation)],
      items=items,
      relation=relation,
    )
    for category, items, relation in _meanings()
  )


@functools.cache
def prompts(
  split: str, categories: tuple[str, ...] | None = None
) -> tuple[Prompt, ...]:
  """Prompts of a split ("train", "validation", "heldout"), by category.

  Raises:
    UserError: unknown split or category.
  """
  prompts_lib.check_split(split)
  for category in categories or ():
    if category not in KINDS:
      raise UserError(
        f'prompt kind "{category}" is not known{nearest(category, KINDS)}'
      )
  numbers = {KINDS.index(k) for k in (categories or KINDS)}
  return tuple(
    p for p in all_prompts() if p.split == split and p.category in numbers
  )


@functools.cache
def _wordings() -> dict[str, list[Prompt]]:
  """Every prompt of the grammar by its meaning."""
  return prompts_lib.by_meaning(all_prompts())


def reword(prompt: Prompt) -> Prompt | None:
  """Another wording of the same meaning, as "b and a" for "a and b"."""
  return prompts_lib.another(prompt, _wordings())


def _quoted(text: str) -> str:
  return f'"{shown(text, 80)}"'


def tokenize(text: str, *, edits: bool = False) -> np.ndarray:
  """Word ids of a prompt, int32 [MAX_WORDS], padded with 0.

  Args:
    text: the prompt.
    edits: whether to accept the words of instructions too.

  Raises:
    UserError: an unknown word, or more than MAX_WORDS of them.
  """
  ids_of = _ALL_IDS if edits else _WORD_IDS
  words = text.lower().replace(".", " ").split()
  if len(words) > MAX_WORDS:
    raise UserError(
      f"prompt {_quoted(text)} has {len(words)} words; at most {MAX_WORDS} fit"
    )
  for word in words:
    if word not in ids_of or word == VOCAB[0]:
      raise UserError(
        f'prompt {_quoted(text)}: the word "{shown(word, 30)}" is not in the'
        f" vocabulary of the scenes{nearest(word, list(ids_of)[1:])}"
      )
  ids = [ids_of[word] for word in words]
  return np.array(ids + [0] * (MAX_WORDS - len(ids)), np.int32)


def _parse_item(words: list[str], text: str) -> Item:
  def fail(what: str):
    raise UserError(
      f'prompt {_quoted(text)}: {what}; an item reads like "a red circle" or'
      ' "three squares"'
    )

  if not words or words[0] not in COUNTS:
    fail(
      f'"{shown(" ".join(words))}" does not begin with one of'
      f" {', '.join(COUNTS)}"
    )
  count = COUNTS.index(words[0]) + 1
  nouns = SHAPES if count == 1 else tuple(_PLURAL[s] for s in SHAPES)
  if words[-1] not in nouns:
    fail(f'"{words[-1]}" is not one of {", ".join(nouns)}')
  colour = ANY_COLOUR
  if len(words) == 3:
    if words[1] not in COLOURS:
      fail(f'"{words[1]}" is not one of {", ".join(COLOURS)}')
    colour = COLOURS.index(words[1])
  elif len(words) != 2:
    fail(f'"{shown(" ".join(words))}" has {len(words)} words')
  return count, colour, nouns.index(words[-1])


def _category_of(items: Sequence[Item], relation: int) -> int:
  coloured = any(colour != ANY_COLOUR for _, colour, _ in items)
  if relation:
    return 4
  if len(items) == 2:
    return 5 if coloured else 1
  if items[0][0] > 1:
    return 2
  return 3 if coloured else 0


def parse(text: str) -> Prompt:
  """Parses a prompt of the grammar, also one written by a user.

  Raises:
    UserError: what is wrong with the text, and the fix.
  """
  tokenize(text)
  words = " ".join(text.lower().replace(".", " ").split())
  relation = next((i for i, r in enumerate(RELATIONS) if f" {r} " in words), 0)
  parts = words.split(f" {RELATIONS[relation] if relation else 'and'} ")
  if len(parts) > 2:
    raise UserError(f"prompt {_quoted(text)} names more than two items")
  items = tuple(_parse_item(part.split(), text) for part in parts)
  if relation and len(items) != 2:
    raise UserError(f"prompt {_quoted(text)}: a relation joins two items")
  if sum(count for count, _, _ in items) > MAX_OBJECTS:
    raise UserError(
      f"prompt {_quoted(text)} asks for more than {MAX_OBJECTS} objects"
    )
  if len(items) == 2 and items[0][2] == items[1][2]:
    if ANY_COLOUR in (items[0][1], items[1][1]) or items[0][1] == items[1][1]:
      raise UserError(
        f"prompt {_quoted(text)}: two items of one shape need two different"
        " colours"
      )
  split = _split_of().get(combination(items, relation), "heldout")
  category = _category_of(items, relation)
  text = text_of(items, relation)
  return Prompt(text, category, split, items=items, relation=relation)


def split_of(text: str) -> str | None:
  """The split of a prompt of the grammar; None for any other text."""
  try:
    return parse(text).split
  except UserError:
    return None


def batch(prompts: Sequence[Prompt], size: int | None = None) -> PromptBatch:
  """Prompts as a PromptBatch of NumPy arrays, padded to `size` rows."""
  rows = prompts_lib.batch(prompts, size)
  size = len(rows.ids)
  items = np.zeros((size, 2, 3), np.int32)
  relation = np.zeros(size, np.int32)
  tokens = np.zeros((size, MAX_WORDS), np.int32)
  for row, prompt in enumerate(prompts):
    if prompt.items:
      items[row, : len(prompt.items)] = prompt.items
    relation[row] = prompt.relation
    is_edit = prompt.category in EDIT_CATEGORIES
    tokens[row] = tokenize(prompt.text, edits=is_edit)
  return dataclasses.replace(rows, tokens=tokens, extras=Asked(items, relation))
