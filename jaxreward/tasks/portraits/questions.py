"""Questions about portraits and their edits with exact answers.

Pictures come in pairs: two for one prompt, half of them with a change, or the
source of an edit and a right or wrong result. Some are corrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from jaxreward import rng as rng_lib
from jaxreward.rewards.remote import templates
from jaxreward.tasks import judge_questions
from jaxreward.tasks.judge_questions import Asked, Batch
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import edits, render, words
from jaxreward.tasks.portraits import prompts as lib
from jaxreward.types import Array, ArrayLike

KINDS = (
  "prompt", "exists", "people", "count", "colour", "score", "quality",
  "describe", "thought", "compare", "done", "kept", "following", "keeping",
)  # fmt: skip
# Maximum tokens of a group's questions: of a row's prefix, and of the rest.
ROOM = {"short": (5, 20), "long": (5, 44), "pairs": (10, 36)}
WAYS = ("whole", "noise", "squares", "shade", "stain")
SOURCES = ("as it is", "sharpen", "colour", "fill")
# Attributes that cannot be seen in each of them.
_HIDDEN = (
  (), (), (at.COLOUR_AT, at.SKIN_AT, at.SHIRT_AT, at.BACKGROUND_AT),
  (at.EYES_AT, at.MOUTH_AT, at.BEARD_AT),
)  # fmt: skip
_STAIN = 14  # pixels
_GRAIN = 0.03  # maximum noise of a clean picture
_COLOURED = {
  "hair": at.COLOUR_AT, "shirt": at.SHIRT_AT, "background": at.BACKGROUND_AT
}  # fmt: skip
_COLOURS = tuple(
  dict.fromkeys(w for a in _COLOURED.values() for w in at.VALUES[at.NAMES[a]])
)
_COLOUR = judge_questions.one_of(_COLOURS)
_LEFT, _RIGHT = (f"Describe the person on the {s} in detail." for s in words.SIDES)  # fmt: skip

Facts = Mapping[int, int]


@flax.struct.dataclass
class Look:
  """Content of B pictures.

  Attributes:
    rows: int32 [B, 2, A], attributes.
    count: int32 [B], people.
    source: int32 [B], index into `SOURCES`: the defect that an edit repairs.
    way: int32 [B], index into `WAYS`: the kind of corruption.
    amount: float32 [B], its strength, in [0, 1].
  """

  rows: ArrayLike
  count: ArrayLike
  source: ArrayLike
  way: ArrayLike
  amount: ArrayLike


def draw(keys: Key[Array, "B"], look: Look) -> Float[Array, "B S S 3"]:
  """Pictures, each corrupted by its own noise, stain or shade."""
  images = render.compose(look.rows, look.count, jnp)
  wide = lambda x: jnp.asarray(x)[:, None, None, None]
  side, n = at.SIDE, edits.COARSE
  small = images.reshape(-1, side // n, n, side // n, n, 3).mean((2, 4))
  coarse = small.repeat(n, 1).repeat(n, 2)
  grey = (images @ jnp.asarray(edits.GREY))[..., None]
  hole = images.at[:, *edits.HOLE].set(0.5)
  images = jnp.select(
    [wide(look.source == i) for i in (1, 2, 3)], [coarse, grey, hole], images
  )
  uniform = lambda i, *shape: jax.vmap(
    lambda key: jax.random.uniform(key, shape)
  )(rng_lib.fold_each(keys, i))
  place = jnp.arange(side)
  corner = uniform(0, 2) * (side - _STAIN)
  rows, columns = (
    (place >= corner[:, i, None]) & (place < corner[:, i, None] + _STAIN)
    for i in range(2)
  )
  stain = (rows[:, :, None] & columns[:, None])[..., None]
  amount, is_way = wide(look.amount), lambda i: wide(look.way == i)
  noise = rng_lib.normal_each(rng_lib.fold_each(keys, 1), images.shape[1:])
  images = jnp.where(is_way(2), images + amount * (coarse - images), images)
  images = jnp.where(is_way(3), images * (1 - 0.6 * amount), images)
  colour = uniform(2, 3)[:, None, None]
  blot = jnp.where(stain, images + amount * (colour - images), images)
  images = jnp.where(is_way(4), blot, images)
  grain = wide(uniform(3) * _GRAIN) + jnp.where(is_way(1), 0.25 * amount, 0.0)
  return jnp.clip(images + grain * noise, 0, 1)


def _values(row: np.ndarray, facts: Facts) -> int:
  return sum(int(row[a]) != v for a, v in facts.items())


def errors(rows: np.ndarray, count: int, people: Sequence[Facts]) -> int:
  """Number of attributes that differ from the prompt; all of them if the
  number of people differs."""
  if count != len(people):
    return sum(map(len, people))
  return sum(_values(row, facts) for row, facts in zip(rows, people, strict=False))  # fmt: skip


def _random(rng: np.random.Generator) -> np.ndarray:
  return rng.integers(0, at.COUNTS, (at.PEOPLE, at.A)).astype(np.int32)


def _other(rng: np.random.Generator, name: int, value: int) -> int:
  return int((value + rng.integers(1, at.COUNTS[name])) % at.COUNTS[name])


def made_for(people: Sequence[Facts], rng: np.random.Generator) -> np.ndarray:
  """Attributes [2, A] of a picture that satisfies a prompt."""
  rows = _random(rng)
  for row, facts in zip(rows, people, strict=False):
    for name, value in facts.items():
      row[name] = value
  return rows


def changed(
  rows: np.ndarray,
  count: int,
  people: Sequence[Facts],
  rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
  """(attributes, people) with a change: in requested values, in who stands left
  and right, or in the number of people."""
  way, rows = rng.integers(8), np.array(rows)
  if way == 0:
    return rows, 3 - count
  if way == 1 and count == at.PEOPLE:
    back = rows[0, at.BACKGROUND_AT]
    rows = rows[::-1].copy()
    rows[0, at.BACKGROUND_AT] = back
    return rows, count
  places = [(i, name) for i, facts in enumerate(people) for name in facts]
  for n in rng.permutation(len(places))[: rng.integers(1, 3)]:
    i, name = places[n]
    rows[i, name] = _other(rng, int(name), int(rows[i, name]))
  return rows, count


def _facts(row: np.ndarray, names: Sequence[int]) -> dict[int, int]:
  """The given attributes that have words."""
  silent = (at.EYES_AT, at.BEARD_AT, at.PATTERN_AT)
  return {
    int(a): int(row[a]) for a in names if row[a] != at.NONE or a not in silent
  }


def described(
  rows: np.ndarray,
  count: int,
  rng: np.random.Generator,
  hidden: Sequence[int] = (),
) -> tuple[Facts, ...]:
  """Some facts of a picture, from attributes that are not hidden; at most one
  for half of the people."""
  of_one = at.A if count == 1 else at.BACKGROUND_AT
  people: list[dict[int, int]] = []
  for i in range(count):
    most = (5 if count == 1 else 2) if rng.integers(2) else 1
    names = [n for n in rng.permutation(of_one).tolist() if n not in hidden]
    facts = _facts(rows[i], names[: rng.integers(1, most + 1)])
    people.append(facts or _facts(rows[i], [at.HAIR_AT]))
  return tuple(people)


def altered(
  people: Sequence[Facts], rng: np.random.Generator
) -> tuple[Facts, ...]:
  """The same with another value of one attribute, or with people swapped."""
  new = [dict(facts) for facts in people]
  if len(new) == at.PEOPLE and rng.integers(3) == 0 and new[0] != new[1]:
    return tuple(new[::-1])
  facts = new[int(rng.integers(len(new)))]
  name = int(rng.choice(list(facts)))
  spoken = [v for v in lib.spoken(name) if v != facts[name]]
  if not spoken:  # "checked"
    name = at.MOUTH_AT
    spoken = [v for v in lib.spoken(name) if v != facts.get(name)]
  facts[name] = int(rng.choice(spoken))
  return tuple(new)


def whole(row: np.ndarray, background: bool) -> str:
  """A person with all attributes that have words."""
  facts = _facts(row, range(at.A))
  text = words.person_phrase(facts)
  return f"{text} {words.background_phrase(facts)}" if background else text


def thought(rows: np.ndarray, count: int, people: Sequence[Facts]) -> str:
  """The picture's values of the attributes that a prompt names."""
  parts = []
  for i in range(count):
    names = people[i] if i < len(people) else {}
    values = [at.VALUES[at.NAMES[a]][rows[i, a]] for a in names]
    side = [words.SIDES[i]] if count == at.PEOPLE else ["person"]
    parts.append(" ".join([*side, *values]))
  return ", ".join(parts)


def _place(i: int, count: int) -> str:
  return f" on the {words.SIDES[i]}" if count == at.PEOPLE else ""


def about_parts(
  rows: np.ndarray,
  count: int,
  rng: np.random.Generator,
  hidden: Sequence[int] = (),
) -> Asked:
  """A question about one attribute that is not hidden."""
  kind = ("exists", "exists", "exists", "people", "count", "colour", "colour")[
    rng.integers(7)
  ]
  i = int(rng.integers(count))
  if kind == "people":
    text = "How many people are there?"
    return judge_questions.looked(kind, text, judge_questions.COUNT, str(count))
  if kind == "colour":
    noun = tuple(_COLOURED)[rng.integers(3)]
    name = _COLOURED[noun]
    if name in hidden:
      return about_parts(rows, count, rng, hidden)
    of = "" if noun == "background" or count == 1 else f" of the person{_place(i, count)}"  # fmt: skip
    row = rows[0 if noun == "background" else i]
    colour = at.VALUES[at.NAMES[name]][row[name]]
    question = f"What colour is the {noun}{of}?"
    return judge_questions.looked(kind, question, _COLOUR, colour)
  name = int(rng.integers(at.BACKGROUND_AT))
  if name in hidden:
    return about_parts(rows, count, rng, hidden)
  value = int(rows[i, name])
  if rng.random() < 0.5 or value not in lib.spoken(name):
    value = int(rng.choice(list(lib.spoken(name))))
  sentence = words.person_phrase({name: value})
  has = [bool(row[name] == value) for row in rows[:count]]
  if kind == "count":
    question = (
      f"How many people {sentence.removeprefix('a person ')} are there?"
    )
    return judge_questions.looked(
      kind, question, judge_questions.COUNT, str(sum(has))
    )
  if rng.integers(2):
    return judge_questions.looked(kind, f"Is there {sentence}?", judge_questions.CHOICE, judge_questions.yes(any(has)))  # fmt: skip
  question = f"Is there {sentence}{_place(i, count)}?"
  is_so = has[i] if count == at.PEOPLE else any(has)
  return judge_questions.looked(
    kind, question, judge_questions.CHOICE, judge_questions.yes(bool(is_so))
  )


class Picture:
  """One picture of a batch; a fraction of them is corrupted."""

  def __init__(self, rows: np.ndarray, count: int, rng: np.random.Generator):
    self.rows, self.count = rows, count
    self.source = self.way = 0
    self.amount = 0.0
    if rng.random() < 0.3:
      self.way = int(rng.integers(1, len(WAYS)))
      self.amount = float(rng.uniform(0.3, 1.0))

  @property
  def hidden(self) -> tuple[int, ...]:
    return _HIDDEN[self.source]

  def errors(self, people: Sequence[Facts]) -> int:
    return errors(self.rows, self.count, people)

  def value(self, people: Sequence[Facts]) -> tuple[int, int]:
    """Rank of the picture for a prompt; smaller is better."""
    return self.errors(people), round(4 * self.amount)


def about_prompt(
  picture: Picture,
  people: Sequence[Facts],
  text: str,
  rng: np.random.Generator,
) -> Asked:
  """Asks if, or how well, a picture satisfies a prompt, or for its quality."""
  wrong, way = picture.errors(people), rng.random()
  low, high = judge_questions.SCALES[rng.integers(len(judge_questions.SCALES))]
  if way < 0.6:
    return judge_questions.whether(
      "prompt", templates.YES_NO, not wrong, prompt=text
    )
  if way < 0.8:
    share = 1 - wrong / sum(map(len, people))
    return judge_questions.scored(
      "score", templates.POINTWISE, share, low, high, text
    )
  template = templates.NAMED["picture_quality"]
  share = 1 - picture.amount
  return judge_questions.scored("quality", template, share, low, high, text)


def in_words(
  picture: Picture,
  people: Sequence[Facts],
  text: str,
  rng: np.random.Generator,
) -> Asked:
  """Asks for a description, or for a thought before the answer."""
  wrong = picture.errors(people)
  if picture.hidden or rng.random() < 0.4:
    sentence = thought(picture.rows, picture.count, people)
    return judge_questions.thinking(text, sentence, not wrong)
  question, answer = judge_questions.DESCRIBE, text
  if wrong or rng.random() < 0.7:
    if picture.count == 1:
      answer = whole(picture.rows[0], True)
    else:
      i = int(rng.integers(at.PEOPLE))
      question, answer = (_LEFT, _RIGHT)[i], whole(picture.rows[i], False)
  return Asked("describe", judge_questions.IMAGE + question, "", answer)


def _spoiled(
  right: np.ndarray, edit: edits.Edit, rng: np.random.Generator
) -> np.ndarray:
  """The answer of an edit with changes of requested or preserved values."""
  rows, before = np.array(right), edit.before
  kinds = ((lib.ASKED,), (lib.KEPT, lib.PERSON))
  for roles, share in zip(kinds, (0.4, 0.6), strict=True):
    if rng.random() >= share:
      continue
    places = np.argwhere(np.isin(edit.role, roles))
    for n in rng.permutation(len(places))[: rng.integers(1, 4)]:
      i, name = places[n]
      old = int(before[i, name])
      undone = roles[0] == lib.ASKED and old != rows[i, name]
      keep = undone and rng.random() < 0.6
      rows[i, name] = (
        old if keep else _other(rng, int(name), int(rows[i, name]))
      )
  return rows


def about_edit(
  picture: Picture, edit: edits.Edit, text: str, rng: np.random.Generator
) -> list[Asked]:
  """Four questions: two about the request, two about the rest."""
  differ = picture.rows != edits.answer(edit)
  is_asked = edit.role == lib.ASKED
  wrong = float((differ & is_asked).sum() / max(is_asked.sum(), 1))
  if picture.source or picture.count != edit.count:
    wrong = 1.0
  lost = int((differ & np.isin(edit.role, (lib.KEPT, lib.PERSON))).sum())
  lost += 3 * (picture.count != edit.count)
  low, high = judge_questions.SCALES[rng.integers(len(judge_questions.SCALES))]
  of = lambda name: templates.NAMED[name]
  share = max(0.0, 1 - lost / 3)
  return [
    judge_questions.whether("done", of("edit_done"), wrong == 0, prompt=text),
    judge_questions.whether("kept", of("edit_kept"), lost == 0, prompt=text),
    judge_questions.scored(
      "following", of("edit_following"), 1 - wrong, low, high, text
    ),
    judge_questions.scored(
      "keeping", of("edit_keeping"), share, low, high, text
    ),
  ]


class Questions:
  """Draws questions about pictures for prompts and edits of one split.

  Every third pair of pictures is made for one prompt; the others are source and
  result of an edit.
  """

  def __init__(self, split: str):
    self.split = split
    by_kind: dict[int, list[lib.Prompt]] = {}
    for prompt in (*lib.prompts(split), *edits.prompts(split)):
      by_kind.setdefault(prompt.category, []).append(prompt)
    self.prompts = [x for k, x in by_kind.items() if k in lib.CATEGORIES]
    self.edits = [x for k, x in by_kind.items() if k in lib.EDIT_CATEGORIES]

  def _fits(self, people: Sequence[Facts]) -> bool:
    """Whether a combination is in no other split."""
    return lib.split_of_combination(people) in (None, self.split)

  def _another(self, picture: Picture, rng: np.random.Generator):
    """(people, text) of a prompt that the picture satisfies half the time."""
    while True:
      people = described(picture.rows, picture.count, rng, picture.hidden)
      if rng.integers(2):
        people = altered(people, rng)
      if self._fits(people):
        return people, words.describe(people, int(rng.integers(2)))

  def __call__(
    self, rng: np.random.Generator, count: int, short: int = 3
  ) -> Batch:
    """Questions about `count` pictures, an even number; `short` for each."""
    draw_of = lambda groups: (g := groups[rng.integers(len(groups))])[
      rng.integers(len(g))
    ]
    pictures, prompts, pairs, is_right, long = [], [], [], [], []
    for n in range(count // 2):
      prompt = draw_of(self.edits if n % 3 else self.prompts)
      prompts += [prompt] * 2
      if n % 3:
        pictures += (two := self._edited(prompt.pictures, rng))
        pairs.append(about_edit(two[1], prompt.pictures, prompt.text, rng))
        is_right += [False] * 2
        long += [self._long(x, None, rng) for x in two]
        continue
      two = self._made(prompt.people, rng)
      pictures += two
      texts = [self._another(two[i % 2], rng) for i in range(3)]
      pairs.append(
        [
          judge_questions.compared(text, *(x.value(people) for x in two))
          for people, text in [(prompt.people, prompt.text), *texts]
        ]
      )
      is_right += [not x.errors(prompt.people) for x in two]
      long += [self._long(x, prompt, rng) for x in two]
    short_rows = [
      [about_parts(x.rows, x.count, rng, x.hidden) for _ in range(short)]
      for x in pictures
    ]
    look = Look(
      np.stack([x.rows for x in pictures]).astype(np.int32),
      *(
        np.array([getattr(x, name) for x in pictures], dtype)
        for name, dtype in (
          ("count", np.int32), ("source", np.int32), ("way", np.int32),
          ("amount", np.float32),
        )
      ),
    )  # fmt: skip
    groups = {"short": short_rows, "long": long, "pairs": pairs}
    return Batch(look, groups, prompts, is_right)

  def _long(self, picture: Picture, prompt, rng) -> list[Asked]:
    claims = [self._another(picture, rng) for _ in range(3)]
    if prompt is not None:
      claims[int(rng.integers(3))] = prompt.people, prompt.text
    *two, last = claims
    return [
      *(about_prompt(picture, *x, rng) for x in two),
      in_words(picture, *last, rng),
    ]

  def _made(self, people, rng) -> list[Picture]:
    two = []
    for _ in range(2):
      rows, count = made_for(people, rng), len(people)
      if rng.integers(2):
        rows, count = changed(rows, count, people, rng)
      two.append(Picture(rows, count, rng))
    return two

  def _edited(self, edit: edits.Edit, rng) -> list[Picture]:
    source = Picture(edit.before, edit.people, rng)
    source.way, source.amount = 0, 0.0
    kind = edit.name.split(":")[0]
    if kind in SOURCES:
      source.source = SOURCES.index(kind)
    result = Picture(_spoiled(edits.answer(edit), edit, rng), edit.count, rng)
    way = rng.random()
    if way < 0.1:  # nothing is changed
      result.rows, result.count = edit.before, edit.people
      result.source = source.source
    elif way < 0.15:
      result.count = 3 - edit.count
    return [source, result]


PHRASES = judge_questions.phrases(_COLOUR, _LEFT, _RIGHT)
WORDS = (*words.VOCABULARY[1:], *words.SILENT, "people", "nothing")
