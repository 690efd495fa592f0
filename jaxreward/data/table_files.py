"""Rows of any file or folder: JSON lines, JSON, CSV, parquet, Arrow, TFDS.

A source is a file, a pattern with `*`, or a folder: of shards, of Hugging Face
`datasets` (`save_to_disk`), or of TFDS. Bytes within tables are left there: a row
holds a `Cell`, which reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jaxreward import paths, reading
from jaxreward.data.row_images import Steps, cell_of
from jaxreward.errors import UserError, nearest, one_line

TEXTS = (".jsonl", ".json", ".csv")
ARROW = (".parquet", ".arrow")
SUFFIXES = (*ARROW, *TEXTS)
EXAMPLE = (
  '{"prompt": "a cross", "image_a": "1.png", "image_b": "2.png", "label": "a"}'
)
_AT_ONCE = 32  # rows that are converted together
_GROUPS = 2  # groups of rows of a parquet file that are kept

Raw = tuple[str, "dict[str, Any] | UserError"]


@dataclasses.dataclass(frozen=True)
class Part:
  """One file of a source.

  Attributes:
    path: of the file.
    table: reader of a file with bytes; None for texts.
    example: of a row, for errors.
  """

  path: epath.Path
  table: Any = None
  example: str = EXAMPLE

  @property
  def folder(self) -> epath.Path:
    """That names of images are relative to."""
    return self.path.parent

  def rows(self) -> Iterator[Raw]:
    """(place, row, or what is wrong with it).

    Raises:
      UserError: the file as a whole cannot be read.
    """
    if self.table is not None:
      yield from self.table.rows()
    elif self.path.suffix == ".json":
      yield from _json(self.path)
    else:
      yield from reading.table(self.path, self.example, errors=True)


def parts(path: object, split: str = "", field: str = "") -> list[Part]:
  """The files of a source, in order.

  Args:
    path: of a file or a folder, or a pattern with `*`.
    split: of a folder that has several.
    field: config field of the path, for errors.

  Raises:
    UserError: there is none, no such split, or a package is missing.
  """
  text = paths.expand(path, field)
  start = f"{field}={text}" if field else text
  if (files := paths.matches(text)) is not None:
    files = [p for p in files if p.suffix in SUFFIXES]
    if not files:
      raise UserError(f"{start}: no {', '.join(SUFFIXES)} file has such a name")
    return [_part(p) for p in files]
  source = paths.find(path, field)
  if not source.is_dir():
    return [_part(source)]
  if (source / "dataset_dict.json").exists():
    splits = [p.name for p in source.iterdir() if p.is_dir()]
    source, split = source / _split(split, splits, start), ""
  elif (source / "features.json").exists():
    return [_tfds(source, split, start)]
  inside = [*source.glob("*"), *source.glob("*/*")]
  files = sorted(p for p in inside if p.suffix in SUFFIXES)
  files = [p for p in files if p.name not in _NOTES]
  files = _of_split(files, split, start)
  if not files:
    raise UserError(
      f"{start}: the folder holds no {', '.join(SUFFIXES)} file of rows"
    )
  kinds = sorted({p.suffix for p in files})
  if len(kinds) > 1:
    raise UserError(
      f"{start}: the folder holds {' and '.join(kinds)} files; name one file,"
      ' or a pattern such as "folder/*.parquet"'
    )
  return [_part(p) for p in files]


_NOTES = ("dataset_info.json", "state.json", "dataset_dict.json")


def _split(split: str, known: list[str], start: str) -> str:
  choice = split or "train"
  if choice in known:
    return choice
  raise UserError(
    f'{start}: there is no split "{choice}"{nearest(choice, known)}; there are'
    f" {', '.join(sorted(known))}, see config.data.reading.split"
  )


def _of_split(
  files: list[epath.Path], split: str, start: str
) -> list[epath.Path]:
  """Shards such as train-00000-of-00004.parquet of one split."""
  names = {p: p.name.partition("-")[0].partition(".")[0] for p in files}
  is_split = all("-of-" in p.name for p in files)
  if not is_split or (set(names.values()) == {"data"} and not split):
    return files
  choice = _split(split, sorted(set(names.values())), start) if files else ""
  return [p for p in files if names[p] == choice]


def _part(path: epath.Path) -> Part:
  if path.suffix == ".parquet":
    return Part(path, _Parquet(path))
  if path.suffix == ".arrow":
    return Part(path, _Arrow(path))
  return Part(path)


def _json(path: epath.Path) -> Iterator[Raw]:
  """A JSON array, an object with one array of objects, or JSON lines."""
  try:
    value = reading.parse(reading.text(path), reading.name(path))
  except UserError as error:
    if "Extra data" not in str(error):
      raise
    yield from reading.table(path, EXAMPLE, errors=True)
    return
  if isinstance(value, dict):
    lists = [v for v in value.values() if isinstance(v, list) and v]
    lists = [v for v in lists if isinstance(v[0], dict)]
    value = lists[0] if len(lists) == 1 else [value]
  if not isinstance(value, list):
    raise UserError(
      f"{reading.name(path)}: it holds neither a list of rows nor an object"
      f" with one; a row reads like {EXAMPLE}"
    )
  for number, row in enumerate(value, 1):
    where = f"{reading.name(path)}, row {number}"
    if isinstance(row, dict):
      yield where, row
    else:
      yield where, UserError(f"{where}: it is not an object, as in {EXAMPLE}")


def _pyarrow(path: epath.Path, module: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise UserError(
      f"{reading.name(path)}: {path.suffix} files are read by pyarrow; install"
      ' the extra: pip install "jaxreward[tables]"'
    ) from error


def _addressed(value: Any, table: Any, row: int, steps: Steps) -> Any:
  """A value with cells in place of bytes; {bytes, path} is an image."""
  if isinstance(value, bytes):
    return cell_of(table, row, steps, value)
  if isinstance(value, dict):
    if "bytes" in value and set(value) <= {"bytes", "path"}:
      if value["bytes"] is None:
        return value.get("path")
      return cell_of(table, row, (*steps, "bytes"), value["bytes"])
    return {k: _addressed(v, table, row, (*steps, k)) for k, v in value.items()}
  if isinstance(value, list):
    return [_addressed(v, table, row, (*steps, i)) for i, v in enumerate(value)]
  return value


class _Table:
  """A table of pyarrow in groups of rows, read by any thread."""

  path: epath.Path
  starts: np.ndarray  # first row of each group, and the number of rows

  def group(self, number: int) -> Any:
    """The rows of a group, a `pyarrow.Table`."""
    raise NotImplementedError

  def rows(self) -> Iterator[Raw]:
    name = reading.name(self.path)
    for number, start in enumerate(self.starts[:-1].tolist()):
      group = self.group(number)
      for at in range(0, len(group), _AT_ONCE):
        for i, row in enumerate(group.slice(at, _AT_ONCE).to_pylist()):
          row_number = start + at + i
          place = f"{name}, row {row_number + 1}"
          yield (
            place,
            {k: _addressed(v, self, row_number, (k,)) for k, v in row.items()},
          )

  def group_of(self, row: int) -> int | None:
    del row
    return None

  def cell(self, row: int, steps: Steps) -> bytes:
    number = self._number(row)
    column, *rest = steps
    group = self.group(number)
    value = group.column(column)[row - int(self.starts[number])]
    for step in rest:
      value = value[step]
    return value.as_py()

  def _number(self, row: int) -> int:
    """Of the group that holds a row."""
    return int(np.searchsorted(self.starts, row, "right")) - 1


class _Parquet(_Table):
  """Groups are read whole; the last ones are kept."""

  def __init__(self, path: epath.Path):
    parquet = _pyarrow(path, "pyarrow.parquet")
    try:
      self.file = parquet.ParquetFile(os.fspath(path))
    except (OSError, ValueError) as error:
      raise _damaged(path, error) from error
    about = self.file.metadata
    sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
    self.path, self.starts = path, np.cumsum([0, *sizes])
    self._lock = threading.Lock()
    self._read = functools.lru_cache(_GROUPS)(self.file.read_row_group)

  def group(self, number: int) -> Any:
    with self._lock:
      try:
        return self._read(number)
      except (OSError, ValueError) as error:
        raise _damaged(self.path, error) from error

  def group_of(self, row: int) -> int | None:
    return self._number(row)


class _Arrow(_Table):
  """A stream or a file of record batches, mapped into memory."""

  def __init__(self, path: epath.Path):
    arrow = _pyarrow(path, "pyarrow")
    try:
      source = arrow.memory_map(os.fspath(path))
      try:
        self.table = arrow.ipc.open_stream(source).read_all()
      except arrow.ArrowInvalid:
        self.table = arrow.ipc.open_file(source).read_all()
    except (OSError, ValueError) as error:
      raise _damaged(path, error) from error
    self.path, self.starts = path, np.array([0, len(self.table)])

  def group(self, number: int) -> Any:
    del number
    return self.table


def _damaged(path: epath.Path, error: Exception) -> UserError:
  return UserError(
    f"{reading.name(path)}: it is no readable {path.suffix} table"
    f" ({one_line(error)[:90]}); fetch or write it again"
  )


def _tfds(folder: epath.Path, split: str, start: str) -> Part:
  try:
    tfds = importlib.import_module("tensorflow_datasets")
  except ImportError as error:
    raise UserError(
      f"{start}: the folder is a TFDS data set; install the extra: pip install"
      ' "jaxreward[tfds]"'
    ) from error
  builder = tfds.builder_from_directory(os.fspath(folder))
  choice = _split(split, list(builder.info.splits), start)
  try:
    source = builder.as_data_source(choice)
  except (NotImplementedError, ValueError) as error:
    raise UserError(
      f"{start}: TFDS reads it with TensorFlow alone; prepare it with"
      ' file_format="array_record"'
    ) from error
  path = folder / choice  # names of images start from the folder
  return Part(path, _Source(path, source, builder.info.features))


class _Source:
  """Random access to the examples of a TFDS data set."""

  def __init__(self, path: epath.Path, source: Any, features: Any):
    self.path, self.source, self.features = path, source, features

  def rows(self) -> Iterator[Raw]:
    for number in range(len(self.source)):
      example = self._example(number)
      row = {k: _addressed(v, self, number, (k,)) for k, v in example.items()}
      yield f"{reading.name(self.path)}, row {number + 1}", row

  def cell(self, row: int, steps: Steps) -> bytes:
    value: Any = self._example(row)
    for step in steps:
      value = value[step]
    return value

  def group_of(self, row: int) -> int | None:
    del row
    return None

  def _example(self, number: int) -> dict[str, Any]:
    return _plain(self.source[number], self.features)


def _plain(value: Any, feature: Any) -> Any:
  """Values of TFDS as those of other tables: text, numbers, image files."""
  kind = type(feature).__name__
  if kind == "Image" and getattr(value, "ndim", 0) == 3:
    file = io.BytesIO()
    Image.fromarray(np.asarray(value).squeeze()).save(file, "PNG")
    return file.getvalue()
  if kind == "ClassLabel":
    return feature.int2str(int(value))
  if isinstance(value, dict):
    inner = getattr(feature, "feature", feature)
    return {k: _plain(v, inner[k]) for k, v in value.items()}
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return value
  inner = getattr(feature, "feature", None)
  if inner is not None:
    return [_plain(v, inner) for v in value]
  return value.tolist() if hasattr(value, "tolist") else value
