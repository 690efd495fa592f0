"""A grammar of prompts in the six GenEval kinds, and its splits.

A prompt asks for one or two items, each a (count, colour, shape), and possibly
for a relation of the first to the second. Prompts that mean the same picture,
such as "a circle left of a square" and "a square right of a circle", share one
combination, and a combination belongs to exactly one split: what is held out
never occurs in training in any wording.

The kinds follow GenEval (Ghosh et al., 2023): single object, two objects,
counting, colours, position, colour attribution.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreward.data import texts
from jaxreward.errors import UserError, nearest, shown
from jaxreward.types import PromptBatch

KINDS = ("single", "two", "counting", "colours", "position", "attribution")
FREE = len(KINDS)  # kind of a prompt in any words, which no detector judges
# Kinds of tasks with a picture, see `edits`.
EDITS = ("recolour", "remove", "add", "move", "identity", "upscale")
KIND_NAMES = (*KINDS, "free", *EDITS)
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple")
RELATIONS = ("none", "left of", "right of", "above", "below")
COUNTS = ("a", "two", "three", "four")
SPLITS = ("train", "validation", "heldout")

MAX_WORDS = 8
MAX_OBJECTS = 4
ANY_COLOUR = -1

_PLURAL = {s: "crosses" if s == "cross" else s + "s" for s in SHAPES}
_OPPOSITE = {0: 0, 1: 2, 2: 1, 3: 4, 4: 3}
_HELDOUT_SHARE, _VALIDATION_SHARE = 0.2, 0.1

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
# Words of instructions, which only policies that take a picture know.
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
class Prompt:
  """One prompt: its words and what a picture must show to satisfy it.

  One that comes with pictures has a `task`, an `edits.Edit` or a
  `pictures.Files`, whose name tells it from others of the same words.
  """

  text: str
  kind: int
  items: tuple[Item, ...]
  relation: int = 0
  split: str = "train"
  task: Any = None

  @property
  def key(self) -> str:
    """What no other prompt has: the text, and the name of the task."""
    return self.text if self.task is None else f"{self.text}\n{self.task.name}"

  @property
  def prompt_id(self) -> int:
    """Stable 32-bit number of the key; keys of noise are folded with it."""
    return zlib.crc32(self.key.encode())

  @property
  def meaning(self) -> str:
    """What all wordings of one meaning share; the unit of the splits."""
    if self.task is not None:
      return self.task.meaning
    if self.kind == FREE:
      return self.text
    return combination(self.items, self.relation)


def _item_text(item: Item) -> str:
  count, colour, shape = item
  noun = SHAPES[shape] if count == 1 else _PLURAL[SHAPES[shape]]
  words = [COUNTS[count - 1], noun]
  if colour != ANY_COLOUR:
    words.insert(1, COLOURS[colour])
  return " ".join(words)


def _text(items: Sequence[Item], relation: int) -> str:
  joint = RELATIONS[relation] if relation else "and"
  return f" {joint} ".join(_item_text(i) for i in items)


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
  """(kind, items, relation) of every prompt of the grammar."""
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
  by_kind: dict[int, set[str]] = {}
  for kind, items, relation in _meanings():
    by_kind.setdefault(kind, set()).add(combination(items, relation))
  return split_names(by_kind)


def split_names(by_kind: Mapping[int, Iterable[str]]) -> dict[str, str]:
  """Split of every name: of each kind, the smallest hashes are held out."""
  splits = {}
  for names in by_kind.values():
    ordered = sorted(names, key=lambda n: (zlib.crc32(n.encode()), n))
    heldout = max(1, round(_HELDOUT_SHARE * len(ordered)))
    validation = heldout + max(1, round(_VALIDATION_SHARE * len(ordered)))
    for i, name in enumerate(ordered):
      splits[name] = SPLITS[2 if i < heldout else 1 if i < validation else 0]
  return splits


@functools.cache
def all_prompts() -> tuple[Prompt, ...]:
  """Every prompt of the grammar, in a fixed order."""
  splits = _split_of()
  return tuple(
    Prompt(
      _text(items, relation),
      kind,
      items,
      relation,
      splits[combination(items, relation)],
    )
    for kind, items, relation in _meanings()
  )


@functools.cache
def prompts(
  split: str, kinds: tuple[str, ...] | None = None
) -> tuple[Prompt, ...]:
  """Prompts of a split ("train", "validation", "heldout"), of some kinds.

  Raises:
    UserError: unknown split or kind.
  """
  if split not in SPLITS:
    raise UserError(f'split "{split}" is not known{nearest(split, SPLITS)}')
  for kind in kinds or ():
    if kind not in KINDS:
      raise UserError(
        f'prompt kind "{kind}" is not known{nearest(kind, KINDS)}'
      )
  wanted = {KINDS.index(k) for k in (kinds or KINDS)}
  return tuple(
    p for p in all_prompts() if p.split == split and p.kind in wanted
  )


def _said(text: str) -> str:
  return f'"{shown(text, 80)}"'


def tokenize(text: str, *, edits: bool = False) -> np.ndarray:
  """Word ids of a prompt, int32 [MAX_WORDS], padded with 0.

  Args:
    text: the prompt.
    edits: whether the words of instructions are known too.

  Raises:
    UserError: an unknown word, or more than MAX_WORDS of them.
  """
  known = _ALL_IDS if edits else _WORD_IDS
  words = text.lower().replace(".", " ").split()
  if len(words) > MAX_WORDS:
    raise UserError(
      f"prompt {_said(text)} has {len(words)} words; at most {MAX_WORDS} fit"
    )
  for word in words:
    if word not in known or word == VOCAB[0]:
      raise UserError(
        f'prompt {_said(text)}: the word "{shown(word, 30)}" is not in the'
        f" vocabulary of the scenes{nearest(word, list(known)[1:])}"
      )
  ids = [known[word] for word in words]
  return np.array(ids + [0] * (MAX_WORDS - len(ids)), np.int32)


def _parse_item(words: list[str], text: str) -> Item:
  def fail(what: str):
    raise UserError(
      f'prompt {_said(text)}: {what}; an item reads like "a red circle" or'
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


def _kind_of(items: Sequence[Item], relation: int) -> int:
  coloured = any(colour != ANY_COLOUR for _, colour, _ in items)
  if relation:
    return 4
  if len(items) == 2:
    return 5 if coloured else 1
  if items[0][0] > 1:
    return 2
  return 3 if coloured else 0


def parse(text: str) -> Prompt:
  """Reads a prompt of the grammar, a user's own included.

  Raises:
    UserError: what is wrong with the text and what would be right.
  """
  tokenize(text)
  words = " ".join(text.lower().replace(".", " ").split())
  relation = next((i for i, r in enumerate(RELATIONS) if f" {r} " in words), 0)
  parts = words.split(f" {RELATIONS[relation] if relation else 'and'} ")
  if len(parts) > 2:
    raise UserError(f"prompt {_said(text)} names more than two items")
  items = tuple(_parse_item(part.split(), text) for part in parts)
  if relation and len(items) != 2:
    raise UserError(f"prompt {_said(text)}: a relation joins two items")
  if sum(count for count, _, _ in items) > MAX_OBJECTS:
    raise UserError(
      f"prompt {_said(text)} asks for more than {MAX_OBJECTS} objects"
    )
  if len(items) == 2 and items[0][2] == items[1][2]:
    if ANY_COLOUR in (items[0][1], items[1][1]) or items[0][1] == items[1][1]:
      raise UserError(
        f"prompt {_said(text)}: two items of one shape need two different"
        " colours"
      )
  split = _split_of().get(combination(items, relation), "heldout")
  kind = _kind_of(items, relation)
  return Prompt(_text(items, relation), kind, items, relation, split)


def free(text: str) -> Prompt:
  """A prompt in any words."""
  return Prompt(" ".join(text.split()), FREE, ())


def batch(chosen: Sequence[Prompt], size: int | None = None) -> PromptBatch:
  """Prompts as a PromptBatch of NumPy arrays, padded to `size` rows.

  Free prompts have no `tokens`, only `text`.
  """
  size = len(chosen) if size is None else size
  if not chosen or size < len(chosen):
    raise UserError(f"{len(chosen)} prompts do not make a batch of {size}")
  items = np.zeros((size, 2, 3), np.int32)
  tokens = np.zeros((size, MAX_WORDS), np.int32)
  for row, prompt in enumerate(chosen):
    if prompt.items:
      items[row, : len(prompt.items)] = prompt.items
    if prompt.kind != FREE:
      tokens[row] = tokenize(prompt.text, edits=prompt.kind > FREE)
  pad = size - len(chosen)

  def column(values, dtype):
    return np.array([*values, *([0] * pad)], dtype)

  return PromptBatch(
    tokens=tokens,
    ids=column((p.prompt_id for p in chosen), np.uint32),
    kind=column((p.kind for p in chosen), np.int32),
    items=items,
    relation=column((p.relation for p in chosen), np.int32),
    mask=np.arange(size) < len(chosen),
    text=texts.encode([p.text for p in chosen], size),
  )
