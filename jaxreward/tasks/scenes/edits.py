"""Edits of scenes, with their exact targets.

    recolour   make the red circle blue
    remove     remove the red circle
    add        add a red circle top left
    move       move the red circle bottom right
    identity   the same circle left of a red square
    upscale    sharpen the picture

The source image is a scene drawn from the edit's name. New objects have the
palette's colour and lie at the center of their cell, so that the target is
exact to the pixel. The subject of an identity edit is a shape with a spot of
another colour; the source shows it alone, and any position that satisfies the
prompt is right, so that there is no single target. The source of an upscale
edit shows the scene in squares of three pixels.

A combination, such as (recolour, red, circle, blue), belongs to one split, as
in `grammar`; for "upscale" it is a number.
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
FIRST = grammar.FIRST_EDIT  # number of the first category
PER_KIND = 960  # edits per category over all splits, or a few more
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
COARSE = 3  # pixels, side of the squares of an upscale source
MARK = 0.45  # radius of a subject's spot, relative to the subject's
NEW_RADIUS = 4.0  # pixels, of an added object
_NOTHING = -1


class Thing(NamedTuple):
  """An object in one of the nine cells."""

  shape: int
  colour: int
  cell: int


@dataclasses.dataclass(frozen=True)
class Edit:
  """One edit.

  Attributes:
    name: unique, and the seed of its source image.
    meaning: its combination.
    before: objects of the source.
    after: objects of the target.
    changed: index in `after` of the edited object; -1 for all, as in "upscale".
    gone: the cell that becomes empty, or -1.
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
  """Objects of P targets, in N = `grammar.MAX_OBJECTS` rows.

  Attributes:
    shape: int32 [P, N], -1 if absent.
    colour: int32 [P, N].
    centre: float32 [P, N, 2], (x, y) in pixels.
    changed: bool [P, N], the edited objects; the others are to be preserved.
    gone: float32 [P, 2], the position that becomes empty; NaN if there is none.
    subject: int32 [P], shape of the subject of an identity edit, else -1; its
      objects have no fixed position, and the rows above exclude the subject.
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


def _combinations(category: str) -> list[tuple[int, ...]]:
  """Combinations of a category, one per edit and scene."""
  if category == "recolour":
    triples = itertools.product(_COLOURS, _SHAPES, _COLOURS)
    return [t for t in triples if t[0] != t[2]]
  if category == "remove":
    return list(itertools.product(_COLOURS, _SHAPES))
  if category in ("add", "move"):
    return list(itertools.product(_COLOURS, _SHAPES, _CELLS))
  if category == "identity":  # subject, its colours; the other; the relation
    tuples = itertools.product(
      _SHAPES, _COLOURS, _COLOURS, _COLOURS, _SHAPES,
      range(len(grammar.RELATIONS)),
    )  # fmt: skip
    valid = [f for f in tuples if f[1] != f[2] and f[0] != f[4]]
    order = np.random.default_rng(0).permutation(len(valid))
    return [valid[i] for i in order[:PER_KIND]]
  return [(number,) for number in range(PER_KIND)]


def _others(
  rng: np.random.Generator, count: int, excluded: set[tuple[int, int]]
) -> list[tuple[int, int]]:
  """(shape, colour) of further distinct objects."""
  free = [p for p in itertools.product(_SHAPES, _COLOURS) if p not in excluded]
  return [free[i] for i in rng.permutation(len(free))[:count]]


def _make(category: str, combination: tuple[int, ...], variant: int):
  """(text, items, relation, edit) of one edit."""
  meaning = f"{category}:{combination}"
  name = f"{meaning}#{variant}"
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  cells = [int(c) for c in rng.permutation(len(_CELLS))]
  if category == "identity":
    return _identity(name, meaning, combination, cells)
  if category == "upscale":
    things = _others(rng, int(rng.integers(1, grammar.MAX_OBJECTS + 1)), set())
    objects = tuple(Thing(*t, c) for t, c in zip(things, cells, strict=False))
    edit = Edit(name, meaning, objects, objects)
    return "sharpen the picture", (), 0, edit
  colour, shape = combination[:2]
  excluded, subject = {(shape, colour)}, _name(colour, shape)
  if category == "recolour":
    excluded.add((shape, combination[2]))
  if category in ("add", "move"):  # the requested cell is free
    cells.remove(combination[2])
  old = Thing(shape, colour, cells[0])
  others = tuple(
    Thing(*other, cell)
    for other, cell in zip(
      _others(rng, int(rng.integers(1, 3)), excluded), cells[1:], strict=False
    )
  )
  if category == "recolour":
    new = old._replace(colour=combination[2])
    text = f"make the {subject} {grammar.COLOURS[combination[2]]}"
    return text, (), 0, Edit(name, meaning, (old, *others), (new, *others), 0)
  if category == "remove":
    edit = Edit(name, meaning, (old, *others), others, gone=old.cell)
    return f"remove the {subject}", (), 0, edit
  new = Thing(shape, colour, combination[2])
  where = f"{subject} {_place(new.cell)}"
  if category == "add":
    return (
      f"add a {where}",
      (),
      0,
      Edit(name, meaning, others, (new, *others), 0),
    )
  edit = Edit(name, meaning, (old, *others), (new, *others), 0, old.cell)
  return f"move the {where}", (), 0, edit


def _identity(name, meaning, combination, cells):
  """Source: the subject alone. Target: with another object."""
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


def _of_category(category: str) -> Iterator[tuple]:
  combinations = _combinations(category)
  for variant in range(-(-PER_KIND // len(combinations))):
    for combination in combinations:
      yield _make(category, combination, variant)


@functools.cache
def all_prompts() -> tuple[grammar.Prompt, ...]:
  """Every edit, in a fixed order."""
  by_category = {
    FIRST + i: list(_of_category(category)) for i, category in enumerate(KINDS)
  }
  splits = split_names(
    {
      category: {edit.meaning for *_, edit in edits}
      for category, edits in by_category.items()
    }
  )
  return tuple(
    grammar.Prompt(
      text, category, splits[edit.meaning], edit, items=items, relation=relation
    )
    for category, edits in by_category.items()
    for text, items, relation, edit in edits
  )


def prompts(split: str) -> tuple[grammar.Prompt, ...]:
  """Edits of a split: "train", "validation" or "heldout"."""
  return tuple(p for p in all_prompts() if p.split == split)


class _Look(NamedTuple):
  """Appearance of an edit's scene, cell by cell."""

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
  """(x, y) in pixels of the center of a cell."""
  column_row = np.array([cell % render.GRID, cell // render.GRID])
  return column_row * render.CELL + (render.CELL - 1) / 2


def _objects(edit: Edit, things: Sequence[Thing], look: _Look):
  """(shape, colour [3], centre [2], radius) of every object to draw."""
  old = {thing.cell: thing for thing in edit.before}
  rows = []
  for i, thing in enumerate(things):
    cell, is_same = thing.cell, thing == old.get(thing.cell)
    tint, radius = look.tint[cell], look.radius[cell]
    jitter = look.jitter[cell]
    if edit.mark >= 0 and i == 0:  # a subject keeps colour and size
      first = edit.before[0].cell
      tint, radius = look.tint[first], look.radius[first]
    elif not is_same and cell in old:  # recoloured in its place
      tint = 0.0
    elif not is_same and edit.gone >= 0:  # moved
      tint, radius = look.tint[edit.gone], look.radius[edit.gone]
      jitter = 0.0
    elif not is_same and edit.mark < 0:  # added
      tint, radius, jitter = 0.0, NEW_RADIUS, 0.0
    colour = np.clip(render.PALETTE[thing.colour] + tint, 0, 1)
    centre = middle(cell) + jitter
    rows.append((thing.shape, colour, centre, radius))
    if edit.mark >= 0 and i == 0:
      below = np.array([0, render.CENTROID_Y[thing.shape] * radius])
      spot = (0, render.PALETTE[edit.mark], centre + below, MARK * radius)
      rows.append(spot)
  return rows


def _render(rows: Sequence[Sequence], backgrounds: Sequence) -> np.ndarray:
  """Renders scenes, each a list of objects, as float32 [P, S, S, 3].

  As `render.render`, but on the host, where the batch is assembled.
  """
  count, axis = len(rows), np.arange(render.SIZE, dtype=np.float32)
  owner = np.repeat(np.arange(count), [len(row) for row in rows])
  layer_of = np.concatenate([np.arange(len(row)) for row in rows])
  shape, *columns = zip(*itertools.chain.from_iterable(rows), strict=True)
  shape = np.array(shape)
  colour, centre, radius = (np.array(f, np.float32) for f in columns)
  x = axis[None, None] - centre[:, 0, None, None]
  y = axis[None, :, None] - centre[:, 1, None, None]
  x, y = np.broadcast_arrays(x, y)
  cover = np.zeros((*x.shape, 1), np.float32)
  for i in _SHAPES:
    is_shape = shape == i
    distance = render.signed_distance(
      i, x[is_shape], y[is_shape], radius[is_shape, None, None], np
    )
    cover[is_shape] = np.clip(0.5 - distance, 0, 1)[..., None]
  image = np.empty((count, render.SIZE, render.SIZE, 3), np.float32)
  image[:] = np.asarray(backgrounds, np.float32)[:, None, None]
  for layer in range(grammar.MAX_OBJECTS):
    on_layer = layer_of == layer
    at, over = owner[on_layer], cover[on_layer]
    image[at] = image[at] * (1 - over) + over * colour[on_layer, None, None]
  return image


def coarse(images: Float[np.ndarray, "P H W 3"]) -> np.ndarray:
  """Images in squares of `COARSE` pixels, each of its mean colour."""
  p, h, w, c = images.shape
  small = images.reshape(p, h // COARSE, COARSE, w // COARSE, COARSE, c)
  small = small.mean((2, 4), dtype=np.float32)
  return small.repeat(COARSE, 1).repeat(COARSE, 2)


def _is(prompts: Sequence[grammar.Prompt], category: str) -> np.ndarray:
  return np.array(
    [p.category == FIRST + KINDS.index(category) for p in prompts]
  )


def draw(
  prompts: Sequence[grammar.Prompt],
) -> tuple[np.ndarray, np.ndarray]:
  """(sources, targets) of edits, float32 [P, S, S, 3] in [0, 1].

  The target of an identity edit is one of many.
  """
  edits = [p.pictures for p in prompts]
  looks = [_look(edit) for edit in edits]
  backgrounds = [look.background for look in looks]
  pairs = list(zip(edits, looks, strict=True))
  answers = _render([_objects(e, e.after, x) for e, x in pairs], backgrounds)
  source = _render([_objects(e, e.before, x) for e, x in pairs], backgrounds)
  upscale = _is(prompts, "upscale")
  source[upscale] = coarse(answers[upscale])
  return source, answers


def targets(
  prompts: Sequence[grammar.Prompt], answers: np.ndarray
) -> np.ndarray:
  """The unique targets; NaN for identity edits."""
  free = _is(prompts, "identity")[:, None, None, None]
  return np.where(free, np.float32(np.nan), answers)


def changes(prompts: Sequence[grammar.Prompt]) -> np.ndarray:
  """1 in the edited cells, else 0, float32 [P, S, S, 3].

  NaN for the categories without edited cells: identity and upscale.
  """
  side, cell = render.SIZE, render.CELL
  masks = np.zeros((len(prompts), side, side, 3), np.float32)
  masks[_is(prompts, "identity") | _is(prompts, "upscale")] = np.nan
  for mask, prompt in zip(masks, prompts, strict=True):
    edit = prompt.pictures
    cells = [edit.gone] if edit.gone >= 0 else []
    cells += [edit.after[edit.changed].cell] if edit.changed >= 0 else []
    for at in cells:
      y, x = at // render.GRID * cell, at % render.GRID * cell
      mask[y : y + cell, x : x + cell] = 1
  return masks


def expected(prompts: Sequence[grammar.Prompt]) -> Expected:
  """Objects of the targets."""
  p, n = len(prompts), grammar.MAX_OBJECTS
  answers = Expected(
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
    pairs = list(zip(edit.after, objects, strict=False))
    if edit.mark >= 0:
      shape, colour, _, radius = objects[0]
      answers.subject[i], answers.radius[i] = shape, radius
      answers.look[i] = colour, objects[1][1]
      pairs = [(edit.after[1], objects[2])]
    if edit.gone >= 0:
      answers.gone[i] = middle(edit.gone)
    for j, (thing, (_, _, centre, _)) in enumerate(pairs):
      answers.shape[i, j], answers.colour[i, j] = thing.shape, thing.colour
      answers.centre[i, j] = centre
      about_all = edit.changed < 0 and edit.gone < 0
      answers.changed[i, j] = j == edit.changed or about_all
  return answers


def attach(
  batch: PromptBatch, prompts: Sequence[grammar.Prompt], side: Any = 0
) -> PromptBatch:
  """The batch with the images of its edits and the objects of the targets."""
  del side
  source, answers = draw(prompts)
  extras = dataclasses.replace(batch.extras, edit=expected(prompts))
  return dataclasses.replace(
    batch, source=source, target=targets(prompts, answers),
    changes=changes(prompts), extras=extras,
  )  # fmt: skip
