"""Words of portraits: descriptions from attributes, and back.

    a person with long red hair and glasses, smiling, in a checked blue shirt,
    on a pink background

Articles, conjunctions and commas carry no meaning and are not tokens, so that
token sequences stay short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxreward.errors import UserError, nearest, shown
from jaxreward.tasks.portraits import attributes as at

MAX_WORDS = 16
SILENT = ("a", "an", "the", "and", "with", "on", "in", "of", "is", "it")
_NOUN = ("hair", "skin", "shirt", "background")
SIDES = ("left", "right")
_STYLE_NOUNS = ("bob", "bun", "mohawk")
TEXT_WORDS: tuple[str, ...] = tuple(
  dict.fromkeys(
    (
      "<pad>", "person", *SIDES, *at.HAIR, *at.HAIR_COLOUR, *at.SKIN,
      *at.EYES[1:], *at.MOUTH, *at.BEARD[1:], "checked", *at.SHIRT,
      *at.BACKGROUND, *_NOUN,
    )
  )
)  # fmt: skip
# Words that only instructions use.
EDIT_WORDS = (
  "give", "take", "make", "away", "change", "same", "sharpen", "fill",
  "colour", "plain",
)  # fmt: skip
VOCABULARY = (*TEXT_WORDS, *EDIT_WORDS)
_IDS = {word: i for i, word in enumerate(VOCABULARY)}

# Order of the attributes in a sentence, for three wordings; the last one is
# only for held-out prompts.
HAIR_FIRST = (at.SKIN_AT, at.HAIR_AT, at.EYES_AT, at.BEARD_AT, at.MOUTH_AT,
              at.SHIRT_AT)  # fmt: skip
FACE_FIRST = (at.MOUTH_AT, at.EYES_AT, at.BEARD_AT, at.SKIN_AT, at.HAIR_AT,
              at.SHIRT_AT)  # fmt: skip
SHIRT_FIRST = (at.SHIRT_AT, at.HAIR_AT, at.MOUTH_AT, at.SKIN_AT, at.BEARD_AT,
               at.EYES_AT)  # fmt: skip
ORDERS = (HAIR_FIRST, FACE_FIRST, SHIRT_FIRST)
HELDOUT_WORDING = len(ORDERS) - 1


def _with_article(phrase: str) -> str:
  return f"a {phrase}"


def hair_phrase(facts: Mapping[int, int]) -> str:
  """As "long red hair" or "a red bun"; either word may be missing."""
  colour = at.HAIR_COLOUR[facts[at.COLOUR_AT]] if at.COLOUR_AT in facts else ""
  style = at.HAIR[facts[at.HAIR_AT]] if at.HAIR_AT in facts else ""
  if style in _STYLE_NOUNS:
    return _with_article(f"{colour} {style}".strip())
  return " ".join(w for w in (style, colour, "hair") if w)


def shirt_phrase(facts: Mapping[int, int]) -> str:
  """As "a checked blue shirt"."""
  pattern = at.PATTERN[facts[at.PATTERN_AT]] if at.PATTERN_AT in facts else ""
  colour = at.SHIRT[facts[at.SHIRT_AT]] if at.SHIRT_AT in facts else ""
  return _with_article(" ".join(w for w in (pattern, colour, "shirt") if w))


def phrase(at_: int, facts: Mapping[int, int]) -> str:
  """The words for an attribute; "" if there are none."""
  if at_ == at.HAIR_AT:
    has_words = at.HAIR_AT in facts or at.COLOUR_AT in facts
    return f"with {hair_phrase(facts)}" if has_words else ""
  if at_ == at.SHIRT_AT:
    has_words = at.SHIRT_AT in facts or at.PATTERN_AT in facts
    return f"in {shirt_phrase(facts)}" if has_words else ""
  if at_ not in facts:
    return ""
  word = at.VALUES[at.NAMES[at_]][facts[at_]]
  if at_ == at.SKIN_AT:
    return f"with {word} skin"
  if at_ in (at.EYES_AT, at.BEARD_AT):
    if facts[at_] == at.NONE:
      return ""
    return f"with {word}" if at_ == at.EYES_AT else f"with a {word}"
  return word


def person_phrase(facts: Mapping[int, int], wording: int = 0) -> str:
  """A description of one person.

  Args:
    facts: attribute -> value.
    wording: row of `ORDERS`.
  """
  text = "a person"
  last = ""
  for name in ORDERS[wording]:
    said = phrase(name, facts)
    if said.startswith("with") and last.startswith("with"):
      text += f" and{said.removeprefix('with')}"
    elif said:
      text += f" {said}"
    last = said or last
  return text


def background_phrase(facts: Mapping[int, int]) -> str:
  """As "on a pink background", or nothing."""
  if at.BACKGROUND_AT not in facts:
    return ""
  return f"on a {at.BACKGROUND[facts[at.BACKGROUND_AT]]} background"


def describe(people: Sequence[Mapping[int, int]], wording: int = 0) -> str:
  """A description of a picture of one or two people."""
  if len(people) == 1:
    parts = [person_phrase(people[0], wording), background_phrase(people[0])]
    parts = parts if wording == 0 else parts[::-1]
    return " ".join(p for p in parts if p)
  left, right = (person_phrase(p, wording) for p in people)
  if wording == 0:
    text = f"{left} on the left and {right} on the right"
  elif wording == 1:
    text = f"on the left {left} and on the right {right}"
  else:
    text = f"{right} on the right and {left} on the left"
  return " ".join(p for p in (text, background_phrase(people[0])) if p)


def split(text: str, *, edits: bool = False) -> list[str]:
  """The words of a text that carry meaning.

  Args:
    text: a description, or an instruction.
    edits: whether to accept the words of instructions too.

  Raises:
    UserError: an unknown word.
  """
  for mark in ".,;:":
    text = text.replace(mark, " ")
  words = [w for w in text.lower().split() if w not in SILENT]
  vocabulary = (VOCABULARY if edits else TEXT_WORDS)[1:]
  for word in words:
    if word not in vocabulary:
      raise UserError(
        f'prompt "{shown(text, 80)}": the word "{shown(word, 30)}" is not in the'
        f" vocabulary of the portraits{nearest(word, vocabulary)}"
      )
  return words


def tokenize(text: str, *, edits: bool = False) -> np.ndarray:
  """Word ids of a text, int32 [MAX_WORDS], padded with 0; see `split`.

  Raises:
    UserError: an unknown word, or more than MAX_WORDS that carry meaning.
  """
  words = split(text, edits=edits)
  if len(words) > MAX_WORDS:
    raise UserError(
      f'prompt "{shown(text, 80)}" has {len(words)} words that carry meaning; at'
      f" most {MAX_WORDS} fit"
    )
  ids = [_IDS[word] for word in words]
  return np.array(ids + [0] * (MAX_WORDS - len(ids)), np.int32)


def _value(name: int, word: str) -> int:
  return at.VALUES[at.NAMES[name]].index(word)


_ALONE = {
  word: (name, _value(name, word))
  for name, words in (
    (at.MOUTH_AT, at.MOUTH),
    (at.EYES_AT, at.EYES[1:]),
    (at.BEARD_AT, at.BEARD[1:]),
  )
  for word in words
}
# Noun -> attributes that the words before it may name.
_BEFORE = {
  "hair": (at.HAIR_AT, at.COLOUR_AT),
  **{noun: (at.COLOUR_AT,) for noun in _STYLE_NOUNS},
  "skin": (at.SKIN_AT,),
  "shirt": (at.PATTERN_AT, at.SHIRT_AT),
  "background": (at.BACKGROUND_AT,),
}


def parse(text: str) -> tuple[dict[int, int], ...]:
  """The people of a description, left to right: attribute -> value.

  The background is a fact of the first.

  Raises:
    UserError: what is wrong with the text, and the fix.
  """

  def fail(what: str):
    raise UserError(
      f'prompt "{shown(text, 80)}": {what}; a description reads like "a person'
      ' with long red hair, smiling, in a blue shirt"'
    )

  people: list[dict[int, int]] = []
  sides: list[str] = []
  background: dict[int, int] = {}
  words = split(text)
  pending: list[str] = []
  target: dict[int, int] = {}  # facts before the first person
  for word in words:
    if word in SIDES:
      if pending:
        fail(f'"{" ".join(pending)}" belongs to nothing')
      sides.append(word)
    elif word == "person":
      if pending:
        fail(f'"{" ".join(pending)} person" is not known')
      target = {}
      people.append(target)
    elif word in _ALONE or word in _BEFORE:
      name, value = _ALONE.get(word, (at.HAIR_AT, -1))
      facts = {}
      if word in _ALONE:
        facts[name] = value
        if pending:
          fail(f'"{" ".join(pending)}" belongs to nothing')
      if word in _STYLE_NOUNS:
        facts[at.HAIR_AT] = _value(at.HAIR_AT, word)
      for adjective in pending:
        fits = [a for a in _BEFORE[word] if adjective in at.VALUES[at.NAMES[a]]]
        if not fits:
          fail(f'"{adjective} {word}" is not known')
        value = _value(fits[0], adjective)
        if facts.setdefault(fits[0], value) != value:
          fail(
            f'"{" ".join(pending)} {word}" names two values of one attribute'
          )
      pending = []
      if word != "background" and not people:
        fail(f'"{word}" comes before any person')
      place = background if word == "background" else target
      for name, value in facts.items():
        if place.setdefault(name, value) != value:
          one, two = (
            at.VALUES[at.NAMES[name]][v] for v in (place[name], value)
          )
          fail(f'{at.NAMES[name]} is both "{one}" and "{two}"')
    else:
      pending.append(word)
  if pending:
    fail(f'"{" ".join(pending)}" belongs to nothing')
  if not 1 <= len(people) <= at.PEOPLE:
    fail(f"{len(people)} people are not one or two")
  if len(people) == 2 and sorted(sides) != sorted(SIDES):
    fail('of two people one is "on the left" and one "on the right"')
  if len(people) == 1 and sides:
    fail("one person stands in the middle, and not left or right")
  if sides == ["right", "left"]:
    people.reverse()
  people[0] |= background
  return tuple(people)
