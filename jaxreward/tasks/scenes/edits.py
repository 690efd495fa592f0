"""Tasks on scenes that start from a picture, with their exact answers.

    recolour   make the red circle blue
    remove     remove the red circle
    add        add a red circle top left
    move       move the red circle bottom right
    identity   the same circle left of a red square
    upscale    sharpen the picture

The picture is a scene of its own, drawn from the task's number. What is new in
an answer has the palette's colour and stands in the middle of its cell, so that
one picture is right to the pixel. The subject of an identity task is a shape
with a spot of another colour; the reference shows it alone and any place that
fits is right, so that there is no such picture. A picture to sharpen shows the
scene in squares of three pixels.

A combination, such as (recolour, red, circle, blue), is of one split, as in
`grammar`; scenes of the "upscale" kind have a number for one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.struct
import numpy as np
from jaxtyping import Float

from jaxreward.data.prompts import split_names
from jaxreward.tasks.scenes import grammar, render
from jaxreward.types import ArrayLike, PromptBatch

KINDS = grammar.EDITS
FIRST = grammar.FIRST_EDIT  # of the kinds' numbers
PER_KIND = 960  # tasks, all splits together, or a few more
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
COARSE = 3  # pixels a side of the squares of a picture to sharpen
MARK = 0.45  # radius of a subject's spot, over the subject's
NEW_RADIUS = 4.0  # pixels, of an object that is added
_NOTHING = -1


class Thing(NamedTuple):
  """An object in one of the nine cells."""

  shape: int
  colour: int
  cell: int


@dataclasses.dataclass(frozen=True)
class Edit:
  """One task.

  Attributes:
    name: the seed of its picture, and what tells it from others.
    meaning: its combination.
    before: what the source shows.
    after: what the answer shows.
    changed: which of `after` the task is about; -1 for all, as in "upscale".
    gone: the cell that is left empty, or -1.
    mark: colour of the spot on the first object, the subject, or -1.
  """

  name: str
  meaning: str
  before: tuple[Thing, ...]
  after: tuple[Thing, ...]
  changed: int = _NOTHING
  gone: int = _NOTHING
  mark: int = _NOTHING


@flax.struct.dataclass
class Expected:
  """What P answers show, in N = `grammar.MAX_OBJECTS` rows of objects.

  Attributes:
    shape: int32 [P, N], -1 for a row that is absent.
    colour: int32 [P, N].
    centre: float32 [P, N, 2], (x, y) in pixels.
    changed: bool [P, N], what the task is about; the others are to be kept.
    gone: float32 [P, 2], the place that is left empty; NaN where there is none.
    subject: int32 [P], shape of the subject of an identity task, else -1; its
      objects have no place, and all but the subject are in the rows above.
    look: float32 [P, 2, 3], colours of the subject and of its spot.
    radius: float32 [P], of the subject, in pixels.
  """

  shape: ArrayLike
  colour: ArrayLike
  centre: ArrayLike
  changed: ArrayLike
  gone: ArrayLike
  subject: ArrayLike
  look: ArrayLike
  radius: ArrayLike


def _name(colour: int, shape: int) -> str:
  return f"{grammar.COLOURS[colour]} {grammar.SHAPES[shape]}"


def _place(cell: int) -> str:
  return f"{ROWS[cell // render.GRID]} {COLUMNS[cell % render.GRID]}"


_SHAPES, _COLOURS = range(len(grammar.SHAPES)), range(len(grammar.COLOURS))
_CELLS = range(render.GRID**2)


def _combinations(kind: str) -> list[tuple[int, ...]]:
  """What tells the tasks of a kind apart, besides their scenes."""
  if kind == "recolour":
    triples = itertools.product(_COLOURS, _SHAPES, _COLOURS)
    return [t for t in triples if t[0] != t[2]]
  if kind == "remove":
    return list(itertools.product(_COLOURS, _SHAPES))
  if kind in ("add", "move"):
    return list(itertools.product(_COLOURS, _SHAPES, _CELLS))
  if kind == "identity":  # subject, its colours; the other; the relation
    found = itertools.product(
      _SHAPES, _COLOURS, _COLOURS, _COLOURS, _SHAPES,
      range(len(grammar.RELATIONS)),
    )  # fmt: skip
    apart = [f for f in found if f[1] != f[2] and f[0] != f[4]]
    order = np.random.default_rng(0).permutation(len(apart))
    return [apart[i] for i in order[:PER_KIND]]
  return [(number,) for number in range(PER_KIND)]


def _others(
  rng: np.random.Generator, count: int, taken: set[tuple[int, int]]
) -> list[tuple[int, int]]:
  """(shape, colour) of further objects, all different."""
  free = [p for p in itertools.product(_SHAPES, _COLOURS) if p not in taken]
  return [free[i] for i in rng.permutation(len(free))[:count]]


def _make(kind: str, combination: tuple[int, ...], variant: int):
  """(text, items, relation, edit) of one task."""
  meaning = f"{kind}:{combination}"
  name = f"{meaning}#{variant}"
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  cells = [int(c) for c in rng.permutation(len(_CELLS))]
  if kind == "identity":
    return _identity(name, meaning, combination, cells)
  if kind == "upscale":
    things = _others(rng, int(rng.integers(1, grammar.MAX_OBJECTS + 1)), set())
    shown = tuple(Thing(*t, c) for t, c in zip(things, cells, strict=False))
    edit = Edit(name, meaning, shown, shown)
    return "sharpen the picture", (), 0, edit
  colour, shape = combination[:2]
  taken, subject = {(shape, colour)}, _name(colour, shape)
  if kind == "recolour":
    taken.add((shape, combination[2]))
  if kind in ("add", "move"):  # the cell that is asked for is free
    cells.remove(combination[2])
  old = Thing(shape, colour, cells[0])
  rest = tuple(
    Thing(*other, cell)
    for other, cell in zip(
      _others(rng, int(rng.integers(1, 3)), taken), cells[1:], strict=False
    )
  )
  if kind == "recolour":
    new = old._replace(colour=combination[2])
    text = f"make the {subject} {grammar.COLOURS[combination[2]]}"
    return text, (), 0, Edit(name, meaning, (old, *rest), (new, *rest), 0)
  if kind == "remove":
    edit = Edit(name, meaning, (old, *rest), rest, gone=old.cell)
    return f"remove the {subject}", (), 0, edit
  new = Thing(shape, colour, combination[2])
  where = f"{subject} {_place(new.cell)}"
  if kind == "add":
    return f"add a {where}", (), 0, Edit(name, meaning, rest, (new, *rest), 0)
  edit = Edit(name, meaning, (old, *rest), (new, *rest), 0, old.cell)
  return f"move the {where}", (), 0, edit


def _identity(name, meaning, combination, cells):
  """The subject alone before; with another object after."""
  shape, colour, mark, colour_2, shape_2, relation = combination
  places = render.related_cells(relation) if relation else [cells[1:3]]
  first, second = places[zlib.crc32(name.encode()) % len(places)]
  subject = Thing(shape, colour, cells[0])
  after = subject._replace(cell=int(first))
  other = Thing(shape_2, colour_2, int(second))
  joint = grammar.RELATIONS[relation] if relation else "and"
  text = (
    f"the same {grammar.SHAPES[shape]} {joint} a {_name(colour_2, shape_2)}"
  )
  items = ((1, grammar.ANY_COLOUR, shape), (1, colour_2, shape_2))
  edit = Edit(name, meaning, (subject,), (after, other), mark=mark)
  return text, items, relation, edit


def _of_kind(kind: str) -> Iterator[tuple]:
  combinations = _combinations(kind)
  for variant in range(-(-PER_KIND // len(combinations))):
    for combination in combinations:
      yield _make(kind, combination, variant)


@functools.cache
def all_prompts() -> tuple[grammar.Prompt, ...]:
  """Every task, in a fixed order."""
  made = {FIRST + i: list(_of_kind(kind)) for i, kind in enumerate(KINDS)}
  splits = split_names(
    {kind: {edit.meaning for *_, edit in found} for kind, found in made.items()}
  )
  return tuple(
    grammar.Prompt(
      text, kind, splits[edit.meaning], edit, items=items, relation=relation
    )
    for kind, found in made.items()
    for text, items, relation, edit in found
  )


def prompts(split: str) -> tuple[grammar.Prompt, ...]:
  """Tasks of a split: "train", "validation" or "heldout"."""
  return tuple(p for p in all_prompts() if p.split == split)


class _Look(NamedTuple):
  """How a task's scene is drawn, cell by cell."""

  jitter: np.ndarray  # [9, 2]
  tint: np.ndarray  # [9, 3]
  radius: np.ndarray  # [9]
  background: np.ndarray  # [3]


def _look(edit: Edit) -> _Look:
  rng = np.random.default_rng([zlib.crc32(edit.name.encode()), 1])
  draw = lambda low, high, *shape: rng.uniform(low, high, shape)
  jitter = draw(-render.JITTER, render.JITTER, 9, 2)
  tint = draw(-render.COLOUR_JITTER, render.COLOUR_JITTER, 9, 3)
  radius = draw(*render.RADIUS, 9)
  level = draw(*render.BACKGROUND, 1) + draw(-render.TINT, render.TINT, 3)
  return _Look(jitter, tint, radius, np.clip(level, 0, 1))


def middle(cell: int) -> np.ndarray:
  """(x, y) in pixels of the middle of a cell."""
  place = np.array([cell % render.GRID, cell // render.GRID])
  return place * render.CELL + (render.CELL - 1) / 2


def _objects(edit: Edit, things: Sequence[Thing], look: _Look):
  """(shape, colour [3], centre [2], radius) of every object to draw."""
  old = {thing.cell: thing for thing in edit.before}
  rows = []
  for i, thing in enumerate(things):
    cell, kept = thing.cell, thing == old.get(thing.cell)
    tint, radius = look.tint[cell], look.radius[cell]
    jitter = look.jitter[cell]
    if edit.mark >= 0 and i == 0:  # a subject keeps colour and size
      first = edit.before[0].cell
      tint, radius = look.tint[first], look.radius[first]
    elif not kept and cell in old:  # recoloured in its place
      tint = 0.0
    elif not kept and edit.gone >= 0:  # moved
      tint, radius = look.tint[edit.gone], look.radius[edit.gone]
      jitter = 0.0
    elif not kept and edit.mark < 0:  # added
      tint, radius, jitter = 0.0, NEW_RADIUS, 0.0
    colour = np.clip(render.PALETTE[thing.colour] + tint, 0, 1)
    centre = middle(cell) + jitter
    rows.append((thing.shape, colour, centre, radius))
    if edit.mark >= 0 and i == 0:
      below = np.array([0, render.CENTROID_Y[thing.shape] * radius])
      spot = (0, render.PALETTE[edit.mark], centre + below, MARK * radius)
      rows.append(spot)
  return rows


def _picture(rows: Sequence[Sequence], backgrounds: Sequence) -> np.ndarray:
  """Draws scenes, each a list of objects, as float32 [P, S, S, 3].

  As `render.render` does, on the host, where the batch is put together.
  """
  count, axis = len(rows), np.arange(render.SIZE, dtype=np.float32)
  owner = np.repeat(np.arange(count), [len(row) for row in rows])
  place = np.concatenate([np.arange(len(row)) for row in rows])
  shape, *facts = zip(*itertools.chain.from_iterable(rows), strict=True)
  shape = np.array(shape)
  colour, centre, radius = (np.array(f, np.float32) for f in facts)
  x = axis[None, None] - centre[:, 0, None, None]
  y = axis[None, :, None] - centre[:, 1, None, None]
  x, y = np.broadcast_arrays(x, y)
  cover = np.zeros((*x.shape, 1), np.float32)
  for i in _SHAPES:
    own = shape == i
    distance = render.signed_distance(
      i, x[own], y[own], radius[own, None, None], np
    )
    cover[own] = np.clip(0.5 - distance, 0, 1)[..., None]
  image = np.empty((count, render.SIZE, render.SIZE, 3), np.float32)
  image[:] = np.asarray(backgrounds, np.float32)[:, None, None]
  for layer in range(grammar.MAX_OBJECTS):
    now = place == layer
    at, over = owner[now], cover[now]
    image[at] = image[at] * (1 - over) + over * colour[now, None, None]
  return image


def coarse(pictures: Float[np.ndarray, "P H W 3"]) -> np.ndarray:
  """Pictures in squares of `COARSE` pixels, each of the mean colour."""
  p, h, w, c = pictures.shape
  small = pictures.reshape(p, h // COARSE, COARSE, w // COARSE, COARSE, c)
  small = small.mean((2, 4), dtype=np.float32)
  return small.repeat(COARSE, 1).repeat(COARSE, 2)


def _is(prompts: Sequence[grammar.Prompt], kind: str) -> np.ndarray:
  return np.array([p.category == FIRST + KINDS.index(kind) for p in prompts])


def draw(
  prompts: Sequence[grammar.Prompt],
) -> tuple[np.ndarray, np.ndarray]:
  """(sources, answers) of tasks, float32 [P, S, S, 3] in [0, 1].

  An identity task has other answers as well.
  """
  edits = [p.pictures for p in prompts]
  looks = [_look(edit) for edit in edits]
  backgrounds = [look.background for look in looks]
  both = list(zip(edits, looks, strict=True))
  answers = _picture([_objects(e, e.after, x) for e, x in both], backgrounds)
  source = _picture([_objects(e, e.before, x) for e, x in both], backgrounds)
  upscale = _is(prompts, "upscale")
  source[upscale] = coarse(answers[upscale])
  return source, answers


def targets(
  prompts: Sequence[grammar.Prompt], answers: np.ndarray
) -> np.ndarray:
  """The answers that no other picture equals; NaN for identity tasks."""
  free = _is(prompts, "identity")[:, None, None, None]
  return np.where(free, np.float32(np.nan), answers)


def changes(prompts: Sequence[grammar.Prompt]) -> np.ndarray:
  """1 in the cells that a task is about, float32 [P, S, S, 3], else 0.

  NaN for the kinds that give no cell: identity and upscale.
  """
  side, cell = render.SIZE, render.CELL
  found = np.zeros((len(prompts), side, side, 3), np.float32)
  found[_is(prompts, "identity") | _is(prompts, "upscale")] = np.nan
  for white, prompt in zip(found, prompts, strict=True):
    edit = prompt.pictures
    cells = [edit.gone] if edit.gone >= 0 else []
    cells += [edit.after[edit.changed].cell] if edit.changed >= 0 else []
    for at in cells:
      y, x = at // render.GRID * cell, at % render.GRID * cell
      white[y : y + cell, x : x + cell] = 1
  return found


def expected(prompts: Sequence[grammar.Prompt]) -> Expected:
  """What the answers show."""
  p, n = len(prompts), grammar.MAX_OBJECTS
  made = Expected(
    shape=np.full((p, n), _NOTHING, np.int32),
    colour=np.full((p, n), _NOTHING, np.int32),
    centre=np.zeros((p, n, 2), np.float32), changed=np.zeros((p, n), bool),
    gone=np.full((p, 2), np.nan, np.float32),
    subject=np.full(p, _NOTHING, np.int32),
    look=np.zeros((p, 2, 3), np.float32), radius=np.ones(p, np.float32),
  )  # fmt: skip
  for i, prompt in enumerate(prompts):
    edit = prompt.pictures
    look = _look(edit)
    objects = _objects(edit, edit.after, look)
    shown = list(zip(edit.after, objects, strict=False))
    if edit.mark >= 0:
      shape, colour, _, radius = objects[0]
      made.subject[i], made.radius[i] = shape, radius
      made.look[i] = colour, objects[1][1]
      shown = [(edit.after[1], objects[2])]
    if edit.gone >= 0:
      made.gone[i] = middle(edit.gone)
    for j, (thing, (_, _, centre, _)) in enumerate(shown):
      made.shape[i, j], made.colour[i, j] = thing.shape, thing.colour
      made.centre[i, j] = centre
      about_all = edit.changed < 0 and edit.gone < 0
      made.changed[i, j] = j == edit.changed or about_all
  return made


def attach(
  batch: PromptBatch, prompts: Sequence[grammar.Prompt], side: Any = 0
) -> PromptBatch:
  """The batch with the pictures of its tasks and what answers show."""
  del side
  source, answers = draw(prompts)
  extras = dataclasses.replace(batch.extras, edit=expected(prompts))
  return dataclasses.replace(
    batch, source=source, target=targets(prompts, answers),
    changes=changes(prompts), extras=extras,
  )  # fmt: skip
