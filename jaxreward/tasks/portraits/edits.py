"""Edits of portraits, with their exact targets.

    give       give the person on the left glasses; take the beard away
    recolour   make the shirt of the person on the right green
    express    make the person smiling
    restyle    give the person a bun
    identity   the same person smiling in a red shirt on the left, and another
    sharpen    sharpen it
    fill       fill in the person with glasses and a beard, smiling
    colour     colour a person with dark skin and red hair in a blue shirt
    unheard    instructions of the first four kinds, in no training prompt

The target is the drawing with one attribute changed; everything else is the
same to the pixel. An identity edit names some attributes of another picture of
the source's person, and has many right answers. The sources of the next three
kinds are squares of four pixels, a picture with a hole over the face, and a
greyscale picture, which edges or a map of regions may replace (`CONTROLS`).

People are held out: a person in a held-out edit, before or after, is in no
other edit. Instructions are in all splits, except those of the kind "unheard".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from jaxreward.data.prompts import split_names
from jaxreward.rewards import fidelity
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import prompts as lib
from jaxreward.tasks.portraits import render, words
from jaxreward.types import PromptBatch

KINDS = lib.EDITS
LOCAL = KINDS[:4]  # one attribute changes
UNHEARD = "unheard"
PER_KIND = 1500  # edits per kind, or a few more
COARSE = 4  # pixels, side of the squares of a sharpen source
HOLE = (slice(21, 36), slice(16, 32))  # rows and columns of a person's face
GREY = (0.299, 0.587, 0.114)
WHOLE = (
  "identity",
  "sharpen",
  "colour",
)  # no pixel of the source is preserved
_PLACES = (-1, 0, 1)  # alone, left, right
_FACE = (at.EYES_AT, at.MOUTH_AT, at.BEARD_AT)
_COLOURED = (at.COLOUR_AT, at.SKIN_AT, at.SHIRT_AT, at.BACKGROUND_AT)
_CANDIDATES = 32  # people sampled at once
_HELDOUT = 0.2  # share of the people
# Place, mouth and shirt of a person's pictures in a strip.
_STRIP = ((0, 0, 0), (1, 1, 3), (0, 2, 4), (1, 0, 5))


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
  """One edit.

  Attributes:
    name: unique, and the seed of its source.
    instruction: its kind and combination, such as give, left, glasses.
    before: int32 [2, A], attributes of the source.
    people: in the source.
    rows, role, count: of the answer, see `prompts.Asked`.
  """

  name: str
  instruction: str
  before: np.ndarray
  people: int
  rows: np.ndarray
  role: np.ndarray
  count: int

  @property
  def meaning(self) -> str:
    """The unit of the splits."""
    return self.name


@functools.cache
def _heldout_people() -> np.ndarray:
  """Which identities are held out, bool with an axis per attribute."""
  shape = tuple(at.COUNTS[a] for a in at.IDENTITY)
  # A CRC would hold out no two people who differ in only one attribute.
  order = sorted(np.ndindex(shape), key=lambda i: sha256(bytes(i)).digest())
  table = np.zeros(shape, bool)
  table[tuple(np.transpose(order[: round(_HELDOUT * len(order))]))] = True
  return table


def is_heldout(people: np.ndarray) -> np.ndarray:
  """Whether people, attributes [..., A], are held out; bool [...]."""
  return _heldout_people()[tuple(people[..., list(at.IDENTITY)].T)].T


def _draw_person(
  rng: np.random.Generator, heldout: bool, change: tuple[int, int] | None
) -> np.ndarray:
  """Attributes [A] of a person before a change; held out, or not, both times.

  Args:
    rng: of the edit.
    heldout: whether the person is to be held out.
    change: (attribute, its value after); its value before is another.
  """
  while True:
    rows = rng.integers(0, at.COUNTS, (_CANDIDATES, at.A))
    after = rows.copy()
    if change:
      at_, value = change
      other = value + rng.integers(1, at.COUNTS[at_], _CANDIDATES)
      rows[:, at_] = np.where(
        rows[:, at_] == value, other % at.COUNTS[at_], rows[:, at_]
      )
      after[:, at_] = value
    fits = is_heldout(rows) == heldout
    if change:
      fits &= is_heldout(after) == heldout
    if fits.any():
      return rows[fits.argmax()].astype(np.int32)


def _combinations(kind: str) -> list[tuple[int, ...]]:
  """(place, attribute, value, ...) of a kind's combinations."""
  if kind == "give":
    named = [(at.EYES_AT, v) for v in range(3)] + [
      (at.BEARD_AT, v) for v in range(3)
    ]
  elif kind == "recolour":
    named = [(a, v) for a in (at.COLOUR_AT, at.SHIRT_AT, at.PATTERN_AT)
             for v in range(at.COUNTS[a])]  # fmt: skip
  elif kind == "express":
    named = [(at.MOUTH_AT, v) for v in range(len(at.MOUTH))]
  elif kind == "restyle":
    named = [(at.HAIR_AT, v) for v in range(len(at.HAIR))]
  elif kind == "identity":
    named = [(m, s) for m in range(len(at.MOUTH)) for s in range(len(at.SHIRT))]
    return [(place, *pair) for place in _PLACES[1:] for pair in named]
  else:
    return [(number,) for number in range(PER_KIND)]
  rows: list[tuple[int, ...]] = [
    (place, *pair) for place in _PLACES for pair in named
  ]
  if kind == "recolour":
    back = at.BACKGROUND_AT
    rows += [(-1, back, v) for v in range(at.COUNTS[back])]
  return rows


def _whose(place: int) -> str:
  return "" if place < 0 else f" on the {words.SIDES[place]}"


def _text(kind: str, place: int, name: int, value: int, old: int) -> str:
  word = at.VALUES[at.NAMES[name]][value]
  if kind == "express":
    return f"make the person{_whose(place)} {word}"
  if kind == "restyle":
    return f"give the person{_whose(place)} {words.hair_phrase({name: value})}"
  if kind == "give":
    if value == at.NONE:
      gone = at.VALUES[at.NAMES[name]][old]
      of = f" of the person{_whose(place)}" if place >= 0 else ""
      return f"take the {gone}{of} away"
    article = "" if name == at.EYES_AT else "a "
    return f"give the person{_whose(place)} {article}{word}"
  noun = {at.COLOUR_AT: "hair", at.BACKGROUND_AT: "background"}
  thing = noun.get(name, "shirt")
  of = f" of the person{_whose(place)}" if place >= 0 else ""
  return f"make the {thing}{of} {word}"


def question(prompt: lib.Prompt) -> dict[str, Any] | None:
  """Asks whether an edit of one attribute is done: a line of a question file.

  None for the other kinds.
  """
  kind, _, numbers = prompt.pictures.instruction.partition(":")
  if kind not in LOCAL:
    return None
  place, name, value = map(int, numbers.strip("()").split(","))
  answers = {"yes": 1.0, "no": 0.0}
  if name == at.BACKGROUND_AT:
    question = "What colour is the background?"
    colours = at.VALUES[at.NAMES[name]]
    answers = {c: float(c == colours[value]) for c in colours}
  else:
    if value == at.NONE and name in (at.EYES_AT, at.BEARD_AT):
      before = prompt.pictures.before[max(place, 0), name]
      value, answers = int(before), {"yes": 0.0, "no": 1.0}
    question = f"Is there {words.person_phrase({name: value})}{_whose(place)}?"
  entry = {"question": question, "answers": answers}
  return {"prompt": prompt.text, "questions": [entry]}


def _make(kind: str, name: str, combination: tuple[int, ...], split: str):
  """(text, edit) of one edit of a split."""
  instruction = _instruction(kind, combination)
  rng = np.random.default_rng(lib.seed_of(name))
  place = combination[0] if len(combination) > 1 else -1
  people = 1 if place < 0 else 2
  row = max(place, 0)
  change = (combination[1], combination[2]) if kind in LOCAL else None
  before = np.stack(
    [
      _draw_person(rng, split == "heldout", change if i == row else None)
      for i in range(at.PEOPLE)
    ]
  )
  before[1, at.BACKGROUND_AT] = before[0, at.BACKGROUND_AT]
  if kind == "identity":
    return _identity(name, instruction, combination, before)
  if change and change[0] == at.BACKGROUND_AT:
    people = int(rng.integers(1, 3))
  rows, role = before.copy(), np.full_like(before, lib.KEPT)
  role[people:] = lib.ANY
  role[1:, at.BACKGROUND_AT] = lib.ANY
  if kind == "sharpen":
    role[role == lib.KEPT] = lib.ASKED
    text = "sharpen it"
  elif kind in ("fill", "colour"):
    named = list(_FACE if kind == "fill" else _COLOURED)
    role[0, named] = lib.ASKED
    facts = {a: int(before[0, a]) for a in named}
    sentence = " ".join(
      s
      for s in (words.person_phrase(facts), words.background_phrase(facts))
      if s
    )
    sentence = sentence.replace("a person", "the person", 1)
    text = f"fill in {sentence}" if kind == "fill" else f"colour {sentence}"
  else:
    _, at_, value = combination
    old = int(before[row, at_])
    rows[row, at_] = value
    if at_ == at.BACKGROUND_AT:
      rows[1, at_] = value
    role[row, at_] = lib.ASKED
    text = _text(kind, place, at_, value, old)
  rows[role == lib.ANY] = render.FREE
  return text, Edit(name, instruction, before, people, rows, role, people)


def _identity(name, instruction, combination, before):
  """Source: the person alone. Answer: left or right of another person."""
  place, mouth, shirt = combination
  rows = np.full_like(before, render.FREE)
  role = np.full_like(before, lib.ANY)
  who = list(at.IDENTITY)
  rows[place, who], role[place, who] = before[0, who], lib.PERSON
  for at_, value in ((at.MOUTH_AT, mouth), (at.SHIRT_AT, shirt)):
    rows[place, at_], role[place, at_] = value, lib.ASKED
  other = {a: int(before[1, a]) for a in (at.HAIR_AT, at.COLOUR_AT)}
  for at_, value in other.items():
    rows[1 - place, at_], role[1 - place, at_] = value, lib.ASKED
  facts = {at.MOUTH_AT: mouth, at.SHIRT_AT: shirt}
  same = words.person_phrase(facts).replace("a person", "the same person", 1)
  text = (
    f"{same}{_whose(place)} and {words.person_phrase(other)}{_whose(1 - place)}"
  )
  return text, Edit(name, instruction, before, 1, rows, role, 2)


def _instruction(kind: str, combination: tuple[int, ...]) -> str:
  return f"{kind}:{combination}"


def _names(kind: str) -> dict[str, tuple[int, ...]]:
  """Name -> combination of every edit of a kind."""
  combinations = _combinations(kind)
  return {
    f"{_instruction(kind, combination)}#{variant}": combination
    for variant in range(-(-PER_KIND // len(combinations)))
    for combination in combinations
  }


@functools.cache
def all_prompts() -> tuple[lib.Prompt, ...]:
  """Every edit, in a fixed order."""
  instructions = split_names(
    {
      number: {_instruction(kind, c) for c in _combinations(kind)}
      for number, kind in enumerate(LOCAL)
    }
  )
  by_category: dict[int, list[tuple[str, str, tuple[int, ...]]]] = {}
  for kind in KINDS:
    if kind == UNHEARD:
      continue
    for name, combination in _names(kind).items():
      is_new = instructions.get(_instruction(kind, combination)) == "heldout"
      number = lib.FIRST_EDIT + KINDS.index(UNHEARD if is_new else kind)
      by_category.setdefault(number, []).append((kind, name, combination))
  splits = split_names(
    {k: {name for _, name, _ in rows} for k, rows in by_category.items()}
  )
  unheard = lib.FIRST_EDIT + KINDS.index(UNHEARD)
  edits = []
  for category, rows in sorted(by_category.items()):
    for kind, name, combination in rows:
      split = "heldout" if category == unheard else splits[name]
      text, edit = _make(kind, name, combination, split)
      edits.append(lib.Prompt(text, category, split, edit))
  return tuple(edits)


@functools.cache
def prompts(split: str | None) -> tuple[lib.Prompt, ...]:
  """Edits of a split; all if None."""
  return tuple(p for p in all_prompts() if split in (None, p.split))


def strips(count: int) -> tuple[tuple[lib.Prompt, ...], ...]:
  """Identity edits of held-out people, one person per row.

  Each has another side, expression or shirt, beside another person.
  """
  kind = KINDS.index("identity")
  rows = []
  for number in range(count):
    rng = np.random.default_rng(lib.seed_of(f"strip:{number}"))
    person, row = _draw_person(rng, True, None), []
    for question in _STRIP:
      before = np.stack([person, _draw_person(rng, True, None)])
      before[1, at.BACKGROUND_AT] = before[0, at.BACKGROUND_AT]
      instruction = _instruction("identity", question)
      name = f"strip:{number}:{instruction}"
      text, edit = _identity(name, instruction, question, before)
      row.append(lib.Prompt(text, lib.FIRST_EDIT + kind, "heldout", edit))
    rows.append(tuple(row))
  return tuple(rows)


def _kind(prompt: lib.Prompt) -> str:
  return KINDS[prompt.category - lib.FIRST_EDIT]


def _is(prompts: Sequence[lib.Prompt], *kinds: str) -> np.ndarray:
  return np.array([_kind(p) in kinds for p in prompts])


def coarse(images: np.ndarray) -> np.ndarray:
  """Images [P, S, S, 3] in squares of `COARSE` pixels of their mean colour."""
  p, h, w, c = images.shape
  small = images.reshape(p, h // COARSE, COARSE, w // COARSE, COARSE, c)
  small = small.mean((2, 4), dtype=np.float32)
  return small.repeat(COARSE, 1).repeat(COARSE, 2)


def answer(edit: Edit) -> np.ndarray:
  """Attributes of a right answer, int32 [2, A]; free ones are as before.

  A person who moves to the right keeps them.
  """
  moves = (edit.role[1] == lib.PERSON).any()
  before = edit.before[::-1] if moves else edit.before
  return np.where(edit.rows == render.FREE, before, edit.rows)


def _grey(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """[P, S, S, 1]."""
  del rows
  return (images @ np.array(GREY, np.float32))[..., None]


def _edges(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """[P, S, S, 1], the border without edges."""
  del rows
  strength = np.minimum(fidelity.edges(images), 1.0)
  return np.pad(strength, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _regions(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """[P, S, S, 3]."""
  shapes = render.shapes_of(rows)
  return render.regions(shapes, np.ones(len(images), np.int32))


# Sources of the edits of kind "colour": (right answers [P, S, S, 3], their
# attributes) -> control images.
CONTROLS = {"grey": _grey, "edges": _edges, "regions": _regions}


def draw(
  prompts: Sequence[lib.Prompt], control: str = "grey"
) -> tuple[np.ndarray, np.ndarray]:
  """(sources, targets), float32 [P, S, S, 3] in [0, 1].

  The target of an identity edit is one of many. `control`: one of `CONTROLS`.
  """
  edits = [p.pictures for p in prompts]
  source = render.compose(
    np.stack([e.before for e in edits]), np.array([e.people for e in edits])
  )
  rows = np.stack([answer(e) for e in edits])
  answers = render.compose(rows, np.array([e.count for e in edits]))
  rough, grey, holes = (_is(prompts, k) for k in ("sharpen", "colour", "fill"))
  source[rough] = coarse(answers[rough])
  if grey.any():
    source[grey] = CONTROLS[control](answers[grey], rows[grey])
  source[holes] = answers[holes]
  for i in np.flatnonzero(holes):
    source[i][HOLE] = 0.5
  return source, answers


def changes(
  prompts: Sequence[lib.Prompt], source: np.ndarray, answers: np.ndarray
) -> np.ndarray:
  """1 where source and target differ, else 0, float32 [P, S, S, 3].

  NaN for kinds that preserve nothing of the source.
  """
  differ = np.abs(answers - source).max(-1, keepdims=True) > 1e-3
  masks = np.repeat(differ.astype(np.float32), 3, -1)
  masks[_is(prompts, *WHOLE)] = np.nan
  return masks


def attach(
  batch: PromptBatch,
  prompts: Sequence[lib.Prompt],
  side: Any = 0,
  *,
  control: str = "grey",
) -> PromptBatch:
  """The batch with the images of its edits; `control`: one of `CONTROLS`."""
  del side
  source, answers = draw(prompts, control)
  mask = changes(prompts, source, answers)
  free = _is(prompts, "identity")[:, None, None, None]
  return dataclasses.replace(
    batch, source=source, changes=mask,
    target=np.where(free, np.float32(np.nan), answers),
  )  # fmt: skip
