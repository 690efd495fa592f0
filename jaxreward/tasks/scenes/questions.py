"""Questions about scenes with their exact answers, to train a judge with.

Each scene is made for a prompt, and half of the scenes then get one change.
Questions use the judges' templates, so that training matches their use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from jaxreward import rng as rng_lib
from jaxreward.rewards.remote import templates
from jaxreward.tasks import judge_questions
from jaxreward.tasks.judge_questions import Asked, Batch
from jaxreward.tasks.scenes import captions, grammar, render
from jaxreward.types import Array, ArrayLike

KINDS = (
  "prompt", "exists", "relation", "count", "colour", "score", "describe",
  "thought", "compare",
)  # fmt: skip
# Maximum tokens of a group's questions: of a row's prefix, and of the rest.
ROOM = {"short": (5, 23), "long": (5, 34), "pairs": (10, 18)}
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_COLOUR = judge_questions.one_of(grammar.COLOURS)


class Thing(NamedTuple):
  """An object of a scene, by numbers of the grammar and of the grid."""

  shape: int
  colour: int
  cell: int


Things = tuple[Thing, ...]


@flax.struct.dataclass
class Look:
  """Objects of B scenes, [B, N] each."""

  present: ArrayLike
  shape: ArrayLike
  colour: ArrayLike
  cell: ArrayLike


def made_for(prompt: grammar.Prompt, rng: np.random.Generator) -> Things:
  """A scene that satisfies a prompt."""
  items = [(s, c) for count, c, s in prompt.items for _ in range(count)]
  cells = rng.permutation(render.GRID**2)[: len(items)]
  if prompt.relation:
    pairs = render.related_cells(prompt.relation)
    cells = pairs[rng.integers(len(pairs))]
  colour = lambda c: int(rng.integers(len(grammar.COLOURS))) if c < 0 else c
  return tuple(
    Thing(s, colour(c), int(cell))
    for (s, c), cell in zip(items, cells, strict=True)
  )


def changed(things: Things, rng: np.random.Generator) -> Things:
  """A scene with one change: an object's colour, shape or place, or one object
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
  """Number of surplus, missing or miscoloured objects and false relations."""
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
  """A prompt of the grammar that a scene satisfies; None if there is none."""
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


def about_prompt(things: Things, prompt: grammar.Prompt) -> Asked:
  """Asks whether a scene satisfies a prompt."""
  is_right = not errors(things, prompt)
  return judge_questions.whether(
    "prompt", templates.YES_NO, is_right, prompt=prompt.text
  )


def with_thought(things: Things, prompt: grammar.Prompt) -> Asked:
  """Asks the same after a thought."""
  return judge_questions.thinking(
    prompt.text, thought(things), not errors(things, prompt)
  )


def description(
  things: Things, rng: np.random.Generator, prompt: grammar.Prompt
) -> Asked | None:
  """Asks for a description of a scene, answered in the words of a prompt."""
  right = prompt if not errors(things, prompt) else described(things, rng)
  if right is None:
    return None
  return Asked(
    "describe", judge_questions.IMAGE + judge_questions.DESCRIBE, "", right.text
  )


def about_parts(
  things: Things, prompt: grammar.Prompt, rng: np.random.Generator
) -> Asked:
  """A question about one property of a scene."""
  thing = things[int(rng.integers(len(things)))]
  shape, colour = grammar.SHAPES[thing.shape], grammar.COLOURS[thing.colour]
  of_shape = [t for t in things if t.shape == thing.shape]
  kind = ("exists", "count", "colour", "score", "relation")[rng.integers(5)]
  if kind == "colour" and len(of_shape) == 1:
    question = f"What colour is the {shape}?"
    return judge_questions.looked(kind, question, _COLOUR, colour)
  if kind == "count":
    if rng.integers(2):
      shape_id = thing.shape if rng.integers(2) else int(rng.integers(4))
      noun = grammar.plural(shape_id)
      count = sum(t.shape == shape_id for t in things)
    else:
      noun = "objects"
      count = len(things)
    return judge_questions.looked(
      kind, f"How many {noun} are there?", judge_questions.COUNT, str(count)
    )
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
    return judge_questions.looked(
      kind, question, judge_questions.CHOICE, judge_questions.yes(holds)
    )
  if kind == "score":
    low, high = judge_questions.SCALES[
      rng.integers(len(judge_questions.SCALES))
    ]
    share = max(0.0, 1 - errors(things, prompt) / 3)
    return judge_questions.scored(
      kind, templates.POINTWISE, share, low, high, prompt.text
    )
  there = {(t.shape, t.colour) for t in things}
  s, c = thing.shape, thing.colour
  if rng.random() < 0.7:  # it may be there, too
    if rng.integers(2):
      s = int(rng.integers(4))
    else:
      c = int(rng.integers(5))
  question = f"Is there a {grammar.COLOURS[c]} {grammar.SHAPES[s]}?"
  return judge_questions.looked(
    "exists",
    question,
    judge_questions.CHOICE,
    judge_questions.yes((s, c) in there),
  )


def compared(first: Things, second: Things, prompt: grammar.Prompt) -> Asked:
  """Asks which of two scenes satisfies a prompt better."""
  return judge_questions.compared(
    prompt.text, errors(first, prompt), errors(second, prompt)
  )


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


def draw(keys: Key[Array, "B"], look: Look) -> Float[Array, "B S S 3"]:
  """Images of scenes with random sizes, tints and places."""
  count = look.present.shape[1]

  def uniform(i: int, low: float, high: float, *more: int):
    draws = lambda key: jax.random.uniform(
      key, (count, *more), minval=low, maxval=high
    )
    return jax.vmap(draws)(rng_lib.fold_each(keys, i))

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


class Questions:
  """Draws questions about scenes made for prompts of one split.

  Pairs of scenes are made for one prompt.
  """

  def __init__(self, split: str):
    self.prompts = prompts = grammar.prompts(split)
    self.near = captions.one_attribute_away(prompts)
    of_kind = lambda k: [i for i, p in enumerate(prompts) if p.category == k]
    self.by_kind = [
      rows for k in range(len(grammar.KINDS)) if (rows := of_kind(k))
    ]

  def _prompt(self, rng: np.random.Generator) -> int:
    rows = self.by_kind[int(rng.integers(len(self.by_kind)))]
    return int(rng.choice(rows))

  def _another(self, things: Things, i: int, rng: np.random.Generator):
    """A prompt to ask about that the scene satisfies half of the time."""
    right = described(things, rng) if rng.integers(2) else None
    return right or self.prompts[int(rng.choice(self.near[i]))]

  def __call__(
    self, rng: np.random.Generator, count: int, short: int = 3
  ) -> Batch:
    """Questions about `count` scenes, an even number; `short` for each."""
    rows = [self._prompt(rng) for _ in range(count // 2)]
    numbers = [i for i in rows for _ in range(2)]
    scenes, one, long = [], [], []
    for i in numbers:
      prompt = self.prompts[i]
      things = made_for(prompt, rng)
      if rng.integers(2):
        things = changed(things, rng)
      scenes.append(things)
      one.append(
        [
          about_prompt(things, prompt),
          about_prompt(things, self._another(things, i, rng)),
          *(about_parts(things, prompt, rng) for _ in range(short - 2)),
        ]
      )
      other = prompt if rng.integers(2) else self._another(things, i, rng)
      text = description(things, rng, prompt) if rng.random() < 0.3 else None
      long.append([text or with_thought(things, other)])
    pairs = []
    for n, i in enumerate(rows):
      a, b = scenes[2 * n : 2 * n + 2]
      other = self.prompts[int(rng.choice(self.near[i]))]
      pairs.append([compared(a, b, self.prompts[i]), compared(a, b, other)])
    prompts = [self.prompts[i] for i in numbers]
    pairs_of = zip(scenes, prompts, strict=True)
    is_right = [not errors(t, p) for t, p in pairs_of]
    groups = {"short": one, "long": long, "pairs": pairs}
    return Batch(look_of(scenes), groups, prompts, is_right)


PHRASES = judge_questions.phrases(_COLOUR)
WORDS = (*grammar.VOCAB[1:], *grammar.EDIT_WORDS)
