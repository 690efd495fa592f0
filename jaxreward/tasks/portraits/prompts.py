"""Prompts of portraits, their meanings and splits.

    simple     two attributes of one person
    detailed   five of them
    pair       one attribute of each of two people
    two        two attributes of each
    reworded   held-out combinations in a wording absent from training prompts

A combination belongs to one split, in all of its wordings.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np

from jaxreward.data import prompts as prompts_lib
from jaxreward.errors import UserError
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import words
from jaxreward.tasks.portraits.render import FREE
from jaxreward.types import ArrayLike, PromptBatch

KINDS = ("simple", "detailed", "pair", "two", "reworded")
FIRST = 13  # numbers of categories are part of random streams
CATEGORIES = dict(enumerate(KINDS, FIRST))
EDITS = (
  "give", "recolour", "express", "restyle", "identity", "sharpen", "fill",
  "colour", "unheard",
)  # fmt: skip
FIRST_EDIT = FIRST + len(KINDS)
EDIT_CATEGORIES = dict(enumerate(EDITS, FIRST_EDIT))
DETAILED = 1200  # number of combinations
PAIRS = 600
TWO = 1200
# The role of an attribute in a prompt.
ANY, ASKED, KEPT, PERSON = range(4)

Facts = Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class Prompt(prompts_lib.Prompt):
  """One prompt: its words and what a picture must show to satisfy it.

  Attributes:
    people: of each person, left to right, attribute -> value; the background
      is a fact of the first.
  """

  people: tuple[Facts, ...] = dataclasses.field(default=(), hash=False)

  @property
  def meaning(self) -> str:
    """Shared by all wordings of one meaning; the unit of the splits."""
    if self.pictures is not None:
      return self.pictures.meaning
    return combination(self.people)


@flax.struct.dataclass
class Asked:
  """What P prompts ask for: the `extras` of their batch.

  Attributes:
    rows: int32 [P, 2, A], values, `FREE` for any value.
    role: int32 [P, 2, A]: 0 if free, 1 if requested, 2 if preserved, 3 if part
      of the identity of the person to preserve.
    count: int32 [P], people.
  """

  rows: ArrayLike
  role: ArrayLike
  count: ArrayLike


def combination(people: Sequence[Facts]) -> str:
  """Name shared by all wordings of one meaning."""
  return "|".join(str(sorted(facts.items())) for facts in people)


def spoken(name: int) -> range:
  """Values that have words."""
  silent = name in (at.EYES_AT, at.BEARD_AT, at.PATTERN_AT)
  return range(1 if silent else 0, at.COUNTS[name])


def _values(names: Sequence[int]) -> Iterable[dict[int, int]]:
  for values in itertools.product(*(spoken(n) for n in names)):
    yield dict(zip(names, values, strict=True))


def _drawn(rng: np.random.Generator, names: Sequence[int]) -> dict[int, int]:
  return {n: int(rng.choice(spoken(n))) for n in names}


def _meanings() -> Iterable[tuple[str, tuple[dict[int, int], ...]]]:
  """(category, people) of every combination, in a fixed order."""
  for names in itertools.combinations(range(at.A), 2):
    for facts in _values(names):
      yield "simple", (facts,)
  rng = np.random.default_rng(0)
  for _ in range(DETAILED):
    yield "detailed", (_drawn(rng, rng.permutation(at.A)[:5].tolist()),)
  same = [
    ({name: a}, {name: b})
    for name in at.OF_PERSON
    for a, b in itertools.permutations(spoken(name), 2)
  ]
  for pair in same:
    yield "pair", pair
  for _ in range(PAIRS - len(same)):
    names = rng.choice(at.OF_PERSON, 2, replace=False).tolist()
    yield "pair", tuple(_drawn(rng, [n]) for n in names)
  for _ in range(TWO):
    names = rng.choice(at.OF_PERSON, 2, replace=False).tolist()
    people = tuple(_drawn(rng, names) for _ in range(at.PEOPLE))
    if people[0] != people[1]:
      yield "two", people


@functools.cache
def _unique() -> dict[str, tuple[str, tuple[dict[int, int], ...]]]:
  """Combination -> (category, people)."""
  return {combination(people): (kind, people) for kind, people in _meanings()}


@functools.cache
def _splits() -> dict[str, str]:
  by_category: dict[int, list[str]] = {}
  for name, (kind, _) in _unique().items():
    by_category.setdefault(KINDS.index(kind), []).append(name)
  return prompts_lib.split_names(by_category)


@functools.cache
def all_prompts() -> tuple[Prompt, ...]:
  """Every prompt, in a fixed order: two wordings of each combination."""
  rows = []
  for name, (kind, people) in _unique().items():
    split = _splits()[name]
    for wording in range(len(words.ORDERS)):
      is_new = wording == words.HELDOUT_WORDING
      if is_new and (split != "heldout" or kind in ("simple", "pair")):
        continue
      category = FIRST + KINDS.index("reworded" if is_new else kind)
      text = words.describe(people, wording)
      rows.append(Prompt(text, category, split, people=people))
  return tuple({p.text: p for p in reversed(rows)}.values())[::-1]


@functools.cache
def prompts(split: str | None) -> tuple[Prompt, ...]:
  """Prompts of a split; of all if None."""
  return tuple(p for p in all_prompts() if split in (None, p.split))


def parse(text: str) -> Prompt:
  """Parses a description, also one written by a user.

  Raises:
    UserError: what is wrong with the text, and the fix.
  """
  words.tokenize(text)
  people = words.parse(text)
  if len(people) == 1:
    kind = "simple" if len(people[0]) < 4 else "detailed"
  else:
    kind = "pair" if max(map(len, people)) < 2 else "two"
  if not any(people):
    raise UserError(f'prompt "{text}" does not describe the people')
  split = split_of_combination(people) or "heldout"
  return Prompt(
    " ".join(text.split()), FIRST + KINDS.index(kind), split, people=people
  )


def split_of_combination(people: Sequence[Facts]) -> str | None:
  """The split of a meaning; None if it is not that of a prompt."""
  return _splits().get(combination(people))


def split_of(text: str) -> str | None:
  """The split of a description; None for any other text."""
  try:
    return parse(text).split
  except UserError:
    return None


@functools.cache
def _wordings() -> dict[str, list[Prompt]]:
  return prompts_lib.by_meaning(all_prompts())


def reword(prompt: Prompt) -> Prompt | None:
  """Another wording of the same meaning."""
  return prompts_lib.another(prompt, _wordings())


def asked(prompt: Any) -> tuple[np.ndarray, np.ndarray, int]:
  """(values [2, A], roles [2, A], people) of one prompt."""
  if prompt.pictures is not None:
    return prompt.pictures.rows, prompt.pictures.role, prompt.pictures.count
  rows = np.full((at.PEOPLE, at.A), FREE, np.int32)
  for row, facts in zip(rows, prompt.people, strict=False):
    for name, value in facts.items():
      row[name] = value
  return rows, np.where(rows == FREE, ANY, ASKED), len(prompt.people)


def batch(prompts: Sequence[Any], size: int | None = None) -> PromptBatch:
  """Prompts as a PromptBatch of NumPy arrays, padded to `size` rows."""
  rows = prompts_lib.batch(prompts, size)
  size = len(rows.ids)
  extras = Asked(
    rows=np.full((size, at.PEOPLE, at.A), FREE, np.int32),
    role=np.zeros((size, at.PEOPLE, at.A), np.int32),
    count=np.ones(size, np.int32),
  )
  tokens = np.zeros((size, words.MAX_WORDS), np.int32)
  for i, prompt in enumerate(prompts):
    is_edit = prompt.category in EDIT_CATEGORIES
    tokens[i] = words.tokenize(prompt.text, edits=is_edit)
    extras.rows[i], extras.role[i], extras.count[i] = asked(prompt)
  return dataclasses.replace(rows, tokens=tokens, extras=extras)


def seed_of(name: str) -> int:
  """A number from a name, the same on every machine."""
  return zlib.crc32(name.encode())
