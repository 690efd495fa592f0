"""Rows of a user's files as samples: prompts, images of each, and scores.

A dataset is a .jsonl or .csv file, or a folder:

- a file has a row per image: its caption under "prompt", "caption" or "text",
  its file under "image", "file_name" or "image_path", relative to the folder,
  and optionally "weight", 1 by default;
- a folder holds `metadata.jsonl` or `metadata.csv`, or images with captions in
  .txt files of the same names.

Preferences are rows of any file; see `preference_files`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
from etils import epath

from jaxreward import paths, reading
from jaxreward.data import pipeline, preference_files, wordings
from jaxreward.data import prompts as prompts_lib
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.prompts import Prompt
from jaxreward.data.public_layouts import PAIR
from jaxreward.data.row_images import File
from jaxreward.data.sources import Parse
from jaxreward.data.users import NOBODY
from jaxreward.errors import UserError, nearest, shown
from jaxreward.types import ArrayLike, PromptBatch

CAPTIONS = ("prompt", "caption", "text")
IMAGES = ("image", "file_name", "image_path")
METADATA = ("metadata.jsonl", "metadata.csv")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_EXAMPLE = '{"prompt": "a red circle", "image": "1.png"}'


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
  """

  prompt: Prompt
  files: Mapping[str, File]
  scores: tuple[float, ...]
  place: str
  is_tie: bool = False
  user: str = ""


@flax.struct.dataclass
class RowBatch:
  """P rows of one step.

  Attributes:
    prompts: P prompts.
    images: uint8 [P, G, H, W, 3].
    scores: float32 [P, G].
    user: int32 [P], the number of who answered, -1 for nobody known; None where
      nobody asks.
  """

  prompts: PromptBatch
  images: ArrayLike
  scores: ArrayLike
  user: ArrayLike | None = None


def checked(records: Sequence[Record]) -> list[PictureRow]:
  """The images of rows, for `image_checks`."""
  return [PictureRow(r.place, r.files, r.is_tie) for r in records]


def read_dataset(path: str, parse: Parse, field: str = "") -> list[Record]:
  """Rows of a dataset.

  Args:
    path: of its file or folder.
    parse: words -> prompt.
    field: config field of the path, for errors.

  Raises:
    UserError: the file, its line, and what is wrong there.
  """
  source = paths.find(path, field)
  if source.is_dir():
    rows, folder = _of_folder(source, field), source
  else:
    rows, folder = reading.table(source, _EXAMPLE), source.parent
  records = [_record(row, where, folder, parse) for where, row in rows]
  if not records:
    raise UserError(f"{reading.name(source)}: there is no image with a caption")
  return records


def read_preferences(
  path: str, parse: Parse, field: str = "", **options: Any
) -> list[Record]:
  """Pairs of a file, see `preference_files`; scores are P(preferred).

  Args:
    path: of its file.
    parse: words -> prompt.
    field: config field of the path, for errors.
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
    for i, j, prob in row.pairs():
      files = dict(zip(PAIR, (row.images[i], row.images[j]), strict=True))
      scores = prob, 1 - prob
      records.append(
        Record(
          prompt, files, scores, row.place, is_tie=prob == 0.5, user=row.user
        )
      )
  if all(record.is_tie for record in records):
    what = f'all {len(records)} are a "tie"' if records else "there is none"
    raise UserError(
      f"{reading.name(path)}: no pair has an answer, {what}; give one with an"
      " image that is better"
    )
  return records


def _of_folder(
  folder: epath.Path, field: str
) -> Iterator[tuple[str, dict[str, Any]]]:
  """(place, row) of a folder, by its metadata or by captions beside images."""
  metadata = [name for name in METADATA if paths.is_there(folder / name)]
  if len(metadata) > 1:
    raise UserError(
      f"{reading.name(folder)}: it holds {' and '.join(metadata)}; keep one"
    )
  if metadata:
    yield from reading.table(folder / metadata[0], _EXAMPLE)
    return
  images = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
  if not images:
    start = f"{field}=" if field else ""
    raise UserError(
      f"{start}{reading.name(folder)}: the folder holds none of"
      f" {', '.join(METADATA)}, and no image"
    )
  for image in sorted(images):
    caption = image.with_suffix(".txt")
    if not paths.is_there(caption):
      raise UserError(
        f"{reading.name(image)}: there is no caption beside it,"
        f" {shown(caption.name)}"
      )
    text = " ".join(reading.text(caption).split())
    yield reading.name(caption), {"prompt": text, "image": image.name}


def _record(row, where, folder, parse) -> Record:
  image = one_of(row, IMAGES, where)
  weight = row.get("weight", 1.0)
  return Record(
    parsed(row, where, parse),
    {image: paths.within(folder, row[image], f'{where}: "{image}"')},
    (number(weight, f'{where}: "weight"'),),
    where,
  )


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
  raise UserError(
    f'{where}: there is no "{names[0]}"{near}; it may also be called'
    f" {', '.join(names[1:])}"
  )


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
) -> Callable[[int], RowBatch]:
  """Batches as a function of the step, each row once per round; see `pipeline`.

  Every process has to request the same steps: each file is read by one of them.

  Args:
    records: R rows with the same number of images.
    seed: of the shuffles.
    batch_size: P rows a step.
    side: pixels, or (height, width), to crop and resize images to.
    arrays: prompts -> their batch.
    users: names in the order of their numbers; None if nobody asks.
  """
  prompts = [r.prompt for r in records]
  order = pipeline.row_stream(len(records), seed=seed, batch_size=batch_size)
  table = arrays(prompts)
  scores = np.array([r.scores for r in records], np.float32)
  user = None
  if users is not None:
    number = {name: i for i, name in enumerate(users)}
    user = np.array([number.get(r.user, NOBODY) for r in records], np.int32)

  def batch(step: int) -> RowBatch:
    rows = order(step)
    samples = [records[r] for r in rows]
    files = {p: r.place for r in samples for p in r.files.values()}
    images = read_images(list(files), side, list(files.values()))
    index_of = {path: i for i, path in enumerate(files)}
    index = [[index_of[p] for p in r.files.values()] for r in samples]
    return RowBatch(
      pipeline.take_rows(table, rows, batch_size), images[np.array(index)],
      scores[rows], None if user is None else user[rows],
    )  # fmt: skip

  return batch
