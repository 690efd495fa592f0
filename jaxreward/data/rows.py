"""Rows of a user's files as samples: prompts, images of each, and scores.

A dataset is any file or folder of `dataset_files`. A row has its caption under
"prompt", "caption" or "text", its image under one of `IMAGES`, the name of a file
relative to the folder or the bytes themselves, and optionally "weight", 1 by
default. For a policy that edits, "image" is what it starts from and "target" what it
learns to draw.

Preferences are rows of any file; see `preference_files`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np

from jaxreward import paths, reading
from jaxreward.data import (
  dataset_files,
  image_files,
  pipeline,
  preference_files,
  wordings,
)
from jaxreward.data import prompts as prompts_lib
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.prompts import Prompt
from jaxreward.data.public_layouts import PAIR
from jaxreward.data.row_images import Cell, File, inside
from jaxreward.data.sources import Parse
from jaxreward.data.users import NOBODY
from jaxreward.errors import UserError, nearest, shown
from jaxreward.types import ArrayLike, PromptBatch

CAPTIONS = ("prompt", "caption", "text")
IMAGES = ("image", "file_name", "image_path", "video")
METADATA = dataset_files.METADATA
COLUMNS = ("prompt", "image", "target", "weight")


@dataclasses.dataclass(frozen=True)
class Record:
  """One row.

  Attributes:
    prompt: of the row.
    files: column -> each of G images.
    scores: G numbers, one per image.
    place: of the row, for errors.
    is_tie: whether its images may be equal.
    user: who answered; empty if unknown.
    source: the image that the images of preferences were made from; empty if the
      policy starts from none.
    is_clip: whether the source is a video of the row, whose first frame counts.
  """

  prompt: Prompt
  files: Mapping[str, File]
  scores: tuple[float, ...]
  place: str
  is_tie: bool = False
  user: str = ""
  source: File = ""
  is_clip: bool = False


@flax.struct.dataclass
class RowBatch:
  """P rows of one step.

  Attributes:
    prompts: P prompts.
    images: uint8 [P, G, H, W, 3], of videos [P, G, F, H, W, 3].
    scores: float32 [P, G]; NaN where a row has fewer images.
    user: int32 [P], the number of who answered, -1 for nobody known; None where
      nobody asks.
  """

  prompts: PromptBatch
  images: ArrayLike
  scores: ArrayLike
  user: ArrayLike | None = None


def checked(records: Sequence[Record]) -> list[PictureRow]:
  """The images of rows, for `image_checks`."""
  source = lambda r: {"source": r.source} if r.source else {}
  return [
    PictureRow(
      r.place, {**r.files, **source(r)}, r.is_tie,
      is_edit=bool(r.source) and not r.is_clip,
    )
    for r in records
  ]  # fmt: skip


def read_dataset(
  path: str,
  parse: Parse,
  field: str = "",
  *,
  columns: Mapping[str, str] | None = None,
  images: str = "",
  split: str = "",
  skip: float = 0.0,
  takes_source: bool = False,
) -> list[Record]:
  """Rows of a dataset.

  Args:
    path: of its file or folder, or a pattern; see `dataset_files`.
    parse: words -> prompt.
    field: config field of the path, for errors.
    columns: one of `COLUMNS` -> the file's name of it.
    images: folder that names of images are relative to; the file's by default.
    split: of a folder that has several.
    skip: share of malformed rows that may be left out.
    takes_source: whether a row has an image to start from, its "image"; what is
      learned is then its "target". That is the first of the row's files.

  Raises:
    UserError: the file, its line, and what is wrong there.
  """
  columns, tally = dict(columns or {}), preference_files.Tally(skip)
  for name in columns:
    if name not in COLUMNS:
      raise UserError(
        f"config.data.layout.columns.{name}: no column of config.data.dataset"
        f"{nearest(name, COLUMNS)}; there are {', '.join(COLUMNS)}"
      )
  folder = paths.find(images, "config.data.reading.images") if images else None
  records = []
  for part in dataset_files.parts(path, split, field):
    for where, row in part.rows():
      try:
        if isinstance(row, UserError):
          raise row
        records.append(
          _record(row, where, part, folder, parse, columns, takes_source)
        )
        tally.rows += 1
      except UserError as error:
        tally.refuse(error)
  tally.finish(reading.name(path))
  if not records:
    raise UserError(f"{reading.name(path)}: there is no image with a caption")
  return records


def read_preferences(
  path: str,
  parse: Parse,
  field: str = "",
  *,
  group: int = 2,
  source: str = "",
  **options: Any,
) -> list[Record]:
  """Rows of a file, see `preference_files`.

  Args:
    path: of its file.
    parse: words -> prompt.
    field: config field of the path, for errors.
    group: 2 takes every labeled pair, with P(preferred) as scores; more takes
      each row whole, with its ratings as scores, or, where it has none, the mean
      P(preferred) to its others.
    source: what the policy starts from: "source" of the row, "frame", that or
      the first image of the row, or nothing.
    **options: of `preference_files.read_rows`.

  Raises:
    UserError: the file, its line, and what is wrong there; no labeled pair.
  """
  records = []
  for row in preference_files.read_rows(path, field=field, **options):
    try:
      prompt = parse(row.prompt)
    except UserError as error:
      raise UserError(f"{row.place}: {error}") from error
    start: File = ""
    is_clip = source == "frame" and row.source is None
    if source and row.source is not None:
      start = row.source
    elif is_clip:
      start = row.images[0]
    elif source:
      raise UserError(
        f'{row.place}: there is no "source", the image that the policy edits'
      )
    record = functools.partial(
      Record, prompt, place=row.place, user=row.user, source=start,
      is_clip=is_clip,
    )  # fmt: skip
    if group > 2:
      if len(row.images) > group:
        raise UserError(
          f"{row.place}: {len(row.images)} images, and"
          f" config.data.list_size={group}; set it to the most of a row"
        )
      names = (f"image {i + 1}" for i in range(group))
      files = dict(zip(names, row.images, strict=False))
      scores = list_scores(row)
      records.append(record(files, scores, is_tie=len(set(scores)) == 1))
      continue
    for i, j, prob in row.pairs():
      files = dict(zip(PAIR, (row.images[i], row.images[j]), strict=True))
      records.append(record(files, (prob, 1 - prob), is_tie=prob == 0.5))
  if all(record.is_tie for record in records):
    what = f'all {len(records)} are a "tie"' if records else "there is none"
    raise UserError(
      f"{reading.name(path)}: no pair has an answer, {what}; give one with an"
      " image that is better"
    )
  return records


def list_scores(row: preference_files.PreferenceRow) -> tuple[float, ...]:
  """A number per image: all ratings, or the mean P(preferred) to the others.

  NaN where nobody said.
  """
  if np.isfinite(row.rating).all():
    return row.rating
  known = np.isfinite(row.prob)
  total = np.where(known, row.prob, 0).sum(1)
  count = known.sum(1)
  mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
  return tuple(mean.tolist())


def _record(row, where, part, folder, parse, columns, takes_source) -> Record:
  prompt = parsed(row, where, parse, _names(columns, "prompt", CAPTIONS))
  roles = {"image": IMAGES}
  if takes_source:
    roles = {"target": ("target",), "image": IMAGES}
  files = {}
  for role, known in roles.items():
    name = one_of(row, _names(columns, role, known), where)
    files[role if takes_source else name] = _file(
      row[name], name, where, part, folder
    )
  weight = columns.get("weight", "weight")
  if "weight" in columns and weight not in row:
    raise UserError(f'{where}: there is no "{weight}"{nearest(weight, row)}')
  scores = (number(row.get(weight, 1.0), f'{where}: "{weight}"'),)
  return Record(prompt, files, scores, where)


def _names(
  columns: Mapping[str, str], role: str, known: Sequence[str]
) -> Sequence[str]:
  return (columns[role],) if role in columns else known


def _file(value: Any, name: str, where: str, part, folder) -> File:
  """The image that a column names or holds."""
  if not isinstance(value, Cell):
    return paths.within(folder or part.folder, value, f'{where}: "{name}"')
  if not image_files.is_image(value.head, name):
    raise UserError(f'{where}: "{name}" holds {value.size} bytes of no image')
  return inside(part.path, name, value)


def parsed(row, where: str, parse, names: Sequence[str] = CAPTIONS):
  """The prompt of a row.

  Raises:
    UserError: there is none, or the policy does not know it.
  """
  name = one_of(row, names, where)
  wordings.check_prompt(row[name], where, f'"{name}"')
  try:
    return parse(row[name])
  except UserError as error:
    raise UserError(f"{where}: {error}") from error


def one_of(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
  """The single column of several alternatives that a row has.

  Raises:
    UserError: it has none of them, or several.
  """
  present = [name for name in names if name in row]
  if len(present) == 1:
    return present[0]
  if present:
    raise UserError(
      f'{where}: "{present[0]}" and "{present[1]}" say the same; keep one'
    )
  near = next(filter(None, (nearest(name, row) for name in names)), "")
  others = (
    f"; it may also be called {', '.join(names[1:])}" if names[1:] else ""
  )
  raise UserError(f'{where}: there is no "{names[0]}"{near}{others}')


def number(value: Any, what: str) -> float:
  """A finite, non-negative number, given as a number or as text.

  Raises:
    UserError: it is anything else.
  """
  amount = reading.number(value)
  if not (math.isfinite(amount) and amount >= 0):
    raise UserError(f"{what} is {shown(value)}; expected a number >= 0")
  return amount


def batches(
  records: Sequence[Record],
  *,
  seed: int,
  batch_size: int,
  side: int | tuple[int, int],
  arrays: Callable[..., PromptBatch] = prompts_lib.batch,
  users: Sequence[str] | None = None,
  frames: int = 0,
  group: int = 0,
) -> Callable[[int], RowBatch]:
  """Batches as a function of the step, each row once per round; see `pipeline`.

  Every process has to request the same steps: each file is read by one of them.

  Args:
    records: R rows; those of fewer images than others are filled up.
    seed: of the shuffles.
    batch_size: P rows a step.
    side: pixels, or (height, width), to crop and resize images to.
    arrays: prompts -> their batch.
    users: names in the order of their numbers; None if nobody asks.
    frames: of videos; 0 for images.
    group: least number of images that rows are filled up to.
  """
  prompts = [r.prompt for r in records]
  order = pipeline.row_stream(len(records), seed=seed, batch_size=batch_size)
  table = arrays(prompts)
  most = max(group, *(len(r.scores) for r in records))
  scores = np.full((len(records), most), np.nan, np.float32)
  for i, record in enumerate(records):
    scores[i, : len(record.scores)] = record.scores
  user = None
  if users is not None:
    number = {name: i for i, name in enumerate(users)}
    user = np.array([number.get(r.user, NOBODY) for r in records], np.int32)

  def batch(step: int) -> RowBatch:
    rows = order(step)
    samples = [records[r] for r in rows]
    files = {p: r.place for r in samples for p in r.files.values()}
    for r in samples:
      if r.is_clip:
        files.setdefault(r.source, r.place)
    images = read_images(list(files), side, list(files.values()), frames)
    if frames:
      height, width = images.shape[1], images.shape[2] // frames
      images = images.reshape(-1, height, frames, width, 3).swapaxes(1, 2)
    index_of = {path: i for i, path in enumerate(files)}
    index = [[index_of[p] for p in r.files.values()] for r in samples]
    index = [row + row[-1:] * (most - len(row)) for row in index]
    batch_prompts = pipeline.take_rows(table, rows, batch_size)
    if all(r.source for r in samples):
      stills = [r for r in samples if not r.is_clip]
      pixels = np.empty((len(samples), *images.shape[-3:]), np.uint8)
      is_clip = np.array([r.is_clip for r in samples])
      pixels[~is_clip] = read_images(
        [r.source for r in stills], side, [r.place for r in stills]
      )
      clips = [index_of[r.source] for r in samples if r.is_clip]
      if clips:
        pixels[is_clip] = images[clips, 0]
      batch_prompts = dataclasses.replace(
        batch_prompts, source=pixels / np.float32(255)
      )
    return RowBatch(
      batch_prompts, images[np.array(index)], scores[rows],
      None if user is None else user[rows],
    )  # fmt: skip

  return batch
