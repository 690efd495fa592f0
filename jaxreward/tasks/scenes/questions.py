"""Questions about scenes with their exact answers, to teach a judge with.

A scene is made for a prompt, and half of them are then changed in one thing.
Questions are the templates of the judges, so that what is learned is what they
ask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from jaxreward.rewards.remote import answers, templates
from jaxreward.rewards.remote.rewards import WINNER, YES
from jaxreward.tasks.scenes import captions, grammar, render
from jaxreward.types import Array, ArrayLike

IMAGE = "{image}"  # of the questions, where each image stands
KINDS = (
  "prompt", "exists", "relation", "count", "colour", "score", "describe",
  "thought", "compare",
)  # fmt: skip
SCALES = ((1, 10), (1, 5), (1, 4))
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_NUMBERS = tuple(map(str, range(11)))
_COUNT = answers.Choice("n", dict.fromkeys(_NUMBERS[:5], 0.0)).request(True)
_COLOUR = answers.Choice("c", dict.fromkeys(grammar.COLOURS, 0.0)).request(True)
_SCORE = answers.Score(1, 10).request(True)
_CHOICE, _WINNER = YES.request(True), WINNER.request(True)
_THINK = "Think first, within <think> and </think>."
DESCRIBE = "Describe this image in detail."


class Thing(NamedTuple):
  """An object of a scene, by numbers of the grammar and of the grid."""

  shape: int
  colour: int
  cell: int


Things = tuple[Thing, ...]


class Asked(NamedTuple):
  """A question with its answer.

  Attributes:
    kind: of `KINDS`.
    question: with `IMAGE` where each image stands.
    begun: beginning of the answer, which is given.
    answer: the rest of it, which is learned.
  """

  kind: str
  question: str
  begun: str
  answer: str


@flax.struct.dataclass
class Look:
  """Objects of B scenes, [B, N] each."""

  present: ArrayLike
  shape: ArrayLike
  colour: ArrayLike
  cell: ArrayLike


def made_for(prompt: grammar.Prompt, rng: np.random.Generator) -> Things:
  """A scene that shows what a prompt asks for."""
  wanted = [(s, c) for count, c, s in prompt.items for _ in range(count)]
  cells = rng.permutation(render.GRID**2)[: len(wanted)]
  if prompt.relation:
    pairs = render.related_cells(prompt.relation)
    cells = pairs[rng.integers(len(pairs))]
  colour = lambda c: int(rng.integers(len(grammar.COLOURS))) if c < 0 else c
  return tuple(
    Thing(s, colour(c), int(cell))
    for (s, c), cell in zip(wanted, cells, strict=True)
  )


def changed(things: Things, rng: np.random.Generator) -> Things:
  """A scene with one thing changed: an object's colour, shape or place, or one
  more or less."""
  free = sorted(set(range(render.GRID**2)) - {t.cell for t in things})
  other = lambda old, count: int((old + rng.integers(1, count)) % count)
  i = int(rng.integers(len(things)))
  thing, rest = things[i], (*things[:i], *things[i + 1 :])
  way = rng.integers(5)
  if way == 0:
    new = thing._replace(colour=other(thing.colour, len(grammar.COLOURS)))
  elif way == 1:
    new = thing._replace(shape=other(thing.shape, len(grammar.SHAPES)))
  elif way == 2:
    new = thing._replace(cell=int(rng.choice(free)))
    if len(things) == 2:  # change places
      return tuple(
        t._replace(cell=o.cell) for t, o in zip(things, things[::-1], strict=True)
      )  # fmt: skip
  elif way == 3 and len(things) > 1:
    return rest
  else:
    if len(things) == grammar.MAX_OBJECTS:
      return rest
    shape = (
      thing.shape if rng.integers(2) else rng.integers(len(grammar.SHAPES))
    )
    colour = rng.integers(len(grammar.COLOURS))
    return (*things, Thing(int(shape), int(colour), int(rng.choice(free))))
  return (*things[:i], new, *things[i + 1 :])


def errors(things: Things, prompt: grammar.Prompt) -> int:
  """Objects too many, too few or of another colour, and a relation that is not."""
  total = 0
  for count, colour, shape in prompt.items:
    same = [t for t in things if t.shape == shape]
    right = [t for t in same if colour < 0 or t.colour == colour]
    total += abs(len(same) - count)
    total += max(0, min(count, len(same)) - len(right))
  shapes = {shape for _, _, shape in prompt.items}
  total += sum(t.shape not in shapes for t in things)
  if prompt.relation:
    first, second = (
      [t.cell for t in things if t.shape == shape]
      for _, _, shape in prompt.items
    )
    if len(first) == len(second) == 1:
      pair = [first[0], second[0]]
      total += pair not in render.related_cells(prompt.relation).tolist()
  return total


def thought(things: Things) -> str:
  """Every object with its place, row by row."""
  ordered = sorted(things, key=lambda t: t.cell)
  return ", ".join(
    f"{grammar.COLOURS[t.colour]} {grammar.SHAPES[t.shape]}"
    f" {_ROWS[t.cell // render.GRID]} {_COLUMNS[t.cell % render.GRID]}"
    for t in ordered
  )


def _item(things: Sequence[Thing], has_colour: bool) -> grammar.Item:
  colours = {t.colour for t in things}
  colour = colours.pop() if has_colour and len(colours) == 1 else -1
  return len(things), colour, things[0].shape


def described(
  things: Things, rng: np.random.Generator
) -> grammar.Prompt | None:
  """A prompt of the grammar that a scene shows; None if there is none."""
  groups = [
    [t for t in things if t.shape == shape] for shape in {t.shape for t in things}
  ]  # fmt: skip
  if len(groups) > 2 or (len(groups) == 2 and len(things) > 2):
    return None
  rng.shuffle(groups)
  has_colour = bool(rng.integers(2))
  items, relation = tuple(_item(g, has_colour) for g in groups), 0
  if len(groups) == 2 and rng.integers(2):
    pair = [groups[0][0].cell, groups[1][0].cell]
    held = [
      r for r in range(1, len(grammar.RELATIONS))
      if pair in render.related_cells(r).tolist()
    ]  # fmt: skip
    relation = int(rng.choice(held)) if held else 0
  return grammar.parse(grammar.text_of(items, relation))


def _filled(template: str, **fields: str) -> str:
  parts = templates.fill(template, {"image": IMAGE, **fields})
  return "".join(part for part in parts if isinstance(part, str))


def _looked(kind: str, question: str, request: str, answer: str) -> Asked:
  text = _filled(templates.CHECKLIST, question=question, answer=request)
  return Asked(kind, text, "", answer)


def _yes(value: bool) -> str:
  return "yes" if value else "no"


def about_prompt(things: Things, prompt: grammar.Prompt) -> Asked:
  """Whether a scene shows what a prompt asks for."""
  text = _filled(templates.YES_NO, prompt=prompt.text, answer=_CHOICE)
  return Asked("prompt", text, "", _yes(not errors(things, prompt)))


def with_thought(things: Things, prompt: grammar.Prompt) -> Asked:
  """The same after a thought."""
  template = templates.default(templates.YES_NO, thinks=True)
  text = _filled(template, prompt=prompt.text, answer=_CHOICE)
  said = f"{thought(things)}</think>{_yes(not errors(things, prompt))}"
  return Asked("thought", text, "<think>", said)


def description(
  things: Things, rng: np.random.Generator, prompt: grammar.Prompt
) -> Asked | None:
  """A scene in the words of a prompt."""
  right = prompt if not errors(things, prompt) else described(things, rng)
  if right is None:
    return None
  return Asked("describe", IMAGE + DESCRIBE, "", right.text)


def about_parts(
  things: Things, prompt: grammar.Prompt, rng: np.random.Generator
) -> Asked:
  """A question about one thing."""
  thing = things[int(rng.integers(len(things)))]
  shape, colour = grammar.SHAPES[thing.shape], grammar.COLOURS[thing.colour]
  of_shape = [t for t in things if t.shape == thing.shape]
  kind = ("exists", "count", "colour", "score", "relation")[rng.integers(5)]
  if kind == "colour" and len(of_shape) == 1:
    question = f"What colour is the {shape}?"
    return _looked(kind, question, _COLOUR, colour)
  if kind == "count":
    if rng.integers(2):
      shape_id = thing.shape if rng.integers(2) else int(rng.integers(4))
      noun = grammar.plural(shape_id)
      count = sum(t.shape == shape_id for t in things)
    else:
      noun = "objects"
      count = len(things)
    return _looked(kind, f"How many {noun} are there?", _COUNT, str(count))
  single = [
    t for t in things if sum(o.shape == t.shape for o in things) == 1
  ]  # fmt: skip
  if kind == "relation" and len(single) > 1:
    a, b = (single[i] for i in rng.permutation(len(single))[:2])
    r = int(rng.integers(1, len(grammar.RELATIONS)))
    holds = [a.cell, b.cell] in render.related_cells(r).tolist()
    question = (
      f"Is the {grammar.SHAPES[a.shape]} {grammar.RELATIONS[r]} the"
      f" {grammar.SHAPES[b.shape]}?"
    )
    return _looked(kind, question, _CHOICE, _yes(holds))
  if kind == "score":
    low, high = SCALES[rng.integers(len(SCALES))]
    share = max(0.0, 1 - errors(things, prompt) / 3)
    text = _filled(
      templates.POINTWISE, prompt=prompt.text, low=str(low), high=str(high),
      answer=_SCORE,
    )  # fmt: skip
    score = round(low + (high - low) * share)
    return Asked(kind, text, '{"score": ', f"{score}}}")
  there = {(t.shape, t.colour) for t in things}
  s, c = thing.shape, thing.colour
  if rng.random() < 0.7:  # it may be there, too
    if rng.integers(2):
      s = int(rng.integers(4))
    else:
      c = int(rng.integers(5))
  question = f"Is there a {grammar.COLOURS[c]} {grammar.SHAPES[s]}?"
  return _looked("exists", question, _CHOICE, _yes((s, c) in there))


def compared(first: Things, second: Things, prompt: grammar.Prompt) -> Asked:
  """Which of two scenes shows better what a prompt asks for."""
  text = _filled(
    templates.PAIRWISE, first=IMAGE, second=IMAGE, prompt=prompt.text,
    answer=_WINNER,
  )  # fmt: skip
  a, b = errors(first, prompt), errors(second, prompt)
  return Asked("compare", text, "", "tie" if a == b else "first" if a < b else "second")  # fmt: skip


def look_of(scenes: Sequence[Things]) -> Look:
  """Scenes as arrays."""
  shape = len(scenes), grammar.MAX_OBJECTS
  look = Look(
    np.zeros(shape, bool), *(np.zeros(shape, np.int32) for _ in "123")
  )
  for i, things in enumerate(scenes):
    for j, thing in enumerate(things):
      look.present[i, j], look.shape[i, j] = True, thing.shape
      look.colour[i, j], look.cell[i, j] = thing.colour, thing.cell
  return look


def draw(key: Key[Array, ""], look: Look) -> Float[Array, "B S S 3"]:
  """Images of scenes, in sizes, tints and places of their own."""
  uniform = lambda i, low, high, *more: jax.random.uniform(
    jax.random.fold_in(key, i), (*look.present.shape, *more), minval=low, maxval=high
  )  # fmt: skip
  cell = jnp.asarray(look.cell)
  centre = jnp.stack([cell % render.GRID, cell // render.GRID], -1)
  middle = centre * render.CELL + (render.CELL - 1) / 2
  tint = render.COLOUR_JITTER
  level = (
    uniform(3, *render.BACKGROUND)[:, :1]
    + uniform(4, -render.TINT, render.TINT, 3)[:, 0]
  )
  colour = jnp.asarray(render.PALETTE)[jnp.asarray(look.colour)]
  return render.render(
    render.Scene(
      present=jnp.asarray(look.present), shape=jnp.asarray(look.shape),
      colour=jnp.clip(colour + uniform(0, -tint, tint, 3), 0, 1),
      centre=middle + uniform(1, -render.JITTER, render.JITTER, 2),
      radius=uniform(2, *render.RADIUS), background=jnp.clip(level, 0, 1),
    )
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Batch:
  """Questions about B scenes, pairs of which were made for one prompt.

  Attributes:
    look: of the scenes.
    short: of each scene.
    long: of each scene, with answers of many words.
    pairs: of scenes 0 and 1, 2 and 3, ...
    prompts: of the scenes.
    is_right: whether each shows what its prompt asks for.
  """

  look: Look
  short: list[list[Asked]]
  long: list[list[Asked]]
  pairs: list[list[Asked]]
  prompts: list[grammar.Prompt]
  is_right: list[bool]


class Questions:
  """Draws questions about scenes made for prompts of one split."""

  def __init__(self, prompts: Sequence[grammar.Prompt]):
    self.prompts = prompts
    self.near = captions.one_attribute_away(prompts)
    of_kind = lambda k: [i for i, p in enumerate(prompts) if p.category == k]
    self.by_kind = [
      rows for k in range(len(grammar.KINDS)) if (rows := of_kind(k))
    ]

  def _prompt(self, rng: np.random.Generator) -> int:
    rows = self.by_kind[int(rng.integers(len(self.by_kind)))]
    return int(rng.choice(rows))

  def _another(self, things: Things, i: int, rng: np.random.Generator):
    """A prompt to ask about that the scene shows as often as not."""
    right = described(things, rng) if rng.integers(2) else None
    return right or self.prompts[int(rng.choice(self.near[i]))]

  def __call__(
    self, rng: np.random.Generator, count: int, short: int = 3
  ) -> Batch:
    """Questions about `count` scenes, an even number, `short` of each."""
    rows = [self._prompt(rng) for _ in range(count // 2)]
    numbers = [i for i in rows for _ in range(2)]
    scenes, one, long = [], [], []
    for i in numbers:
      prompt = self.prompts[i]
      things = made_for(prompt, rng)
      if rng.integers(2):
        things = changed(things, rng)
      scenes.append(things)
      asked = [
        about_prompt(things, prompt),
        about_prompt(things, self._another(things, i, rng)),
        *(about_parts(things, prompt, rng) for _ in range(short - 2)),
      ]
      one.append(asked)
      other = prompt if rng.integers(2) else self._another(things, i, rng)
      said = description(things, rng, prompt) if rng.random() < 0.3 else None
      long.append([said or with_thought(things, other)])
    pairs = []
    for n, i in enumerate(rows):
      a, b = scenes[2 * n : 2 * n + 2]
      other = self.prompts[int(rng.choice(self.near[i]))]
      asked = [compared(a, b, self.prompts[i]), compared(a, b, other)]
      pairs.append(asked)
    prompts = [self.prompts[i] for i in numbers]
    pairs_of = zip(scenes, prompts, strict=True)
    is_right = [not errors(t, p) for t, p in pairs_of]
    return Batch(look_of(scenes), one, long, pairs, prompts, is_right)


_OF_TEMPLATES = (
  templates.YES_NO, templates.POINTWISE, templates.PAIRWISE, templates.CHECKLIST
)  # fmt: skip


def _phrases() -> tuple[str, ...]:
  """The words of the templates between their placeholders, and of requests."""
  parts = []
  for template in _OF_TEMPLATES:
    text = template.replace("{answer}", "")
    for name in templates.places(text):
      text = text.replace(f"{{{name}}}", "\n")
    parts += [x.strip() for x in text.split("\n")]
  requests = _CHOICE, _WINNER, _COUNT, _COLOUR, _SCORE, _THINK, DESCRIBE
  return tuple(x for x in (*parts, *requests, '{"score":') if len(x) > 1)


PHRASES = _phrases()
WORDS = (
  *grammar.VOCAB[1:], *grammar.EDIT_WORDS, *_NUMBERS, *"?.,:;!'\"(){}[]-",
  "one", "is", "are", "there", "what", "which", "how", "many", "colour",
  "object", "objects", "yes", "no", "first", "second", "tie", "image", "in",
  "this", "an", "it", "system", "user", "assistant",
)  # fmt: skip
