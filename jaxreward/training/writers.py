"""Metrics of a run: JSON lines are the record, TensorBoard is a view of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from jaxreward import files, processes, reading
from jaxreward.errors import UserError, one_line, shown
from jaxreward.files import write_atomic
from jaxreward.training.events import EventFile

METRICS_FILE = "metrics.jsonl"
TIMINGS_FILE = "timings.jsonl"
# Fields of every row; no metric may have these names.
RESERVED = ("job", "step", "nonfinite")

Row = dict[str, Any]


def _lines(path: os.PathLike[str] | str) -> list[bytes]:
  """Complete lines of a file; a half-written last line is dropped."""
  path = epath.Path(path)
  if not path.exists():
    return []
  return path.read_bytes().split(b"\n")[:-1]


def _parse(path: os.PathLike[str] | str, number: int, line: bytes) -> Row:
  where = f"{reading.name(path)}, line {number}"
  try:
    row = reading.parse(line.decode(), where)
  except UnicodeDecodeError as error:
    raise UserError(f"{where}: {one_line(error)}") from error
  if not isinstance(row, dict):
    raise UserError(
      f"{where}: expected an object, found {shown(json.dumps(row))}"
    )
  return row


def read_rows(
  path: os.PathLike[str] | str, job: str | None = None
) -> list[Row]:
  """Rows of a JSON-lines file, of one job or all, without a torn last line.

  Raises:
    UserError: a line that is not an object, by file and line number.
  """
  lines = _lines(path)
  rows = [_parse(path, i + 1, line) for i, line in enumerate(lines) if line]
  return [r for r in rows if job is None or r.get("job") == job]


def truncate_rows(
  path: os.PathLike[str] | str, job: str, step: int, order: Sequence[str] = ()
) -> None:
  """Drops rows that a resumed job will write again, atomically.

  Args:
    path: the JSON-lines file; may be absent.
    job: its rows after `step` are dropped.
    step: the step of the checkpoint.
    order: jobs of the run in order; rows of those after `job` are dropped too.
  """
  later = set(order[order.index(job) + 1 :]) if job in order else set()
  lines = _lines(path)

  def stays(number: int, line: bytes) -> bool:
    row = _parse(path, number, line)
    past = row.get("job") == job and row.get("step", 0) > step
    return not past and row.get("job") not in later

  kept = [line for i, line in enumerate(lines) if line and stays(i + 1, line)]
  data = b"".join(line + b"\n" for line in kept)
  if epath.Path(path).exists() and epath.Path(path).read_bytes() != data:
    write_atomic(path, data)


class _Lines:
  """Appends lines, each synced to disk (to a bucket from time to time)."""

  def __init__(self, path: epath.Path):
    self.path = path
    whole = b"".join(line + b"\n" for line in _lines(path))
    try:
      self._file = files.open_growing(path)
      if self._file.tell() != len(whole):
        self._file.truncate(len(whole))
    except OSError as error:
      raise self._refused(error) from error
    self._size = len(whole)

  def _refused(self, error: OSError) -> UserError:
    return UserError(f"cannot write {self.path}: {error.strerror or error}")

  def append(self, row: Row) -> None:
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    rest = line
    try:
      while rest:
        rest = rest[self._file.write(rest) or 0 :]
      files.sync(self._file)
    except OSError as error:
      self._file.truncate(self._size)
      raise self._refused(error) from error
    self._size += len(line)

  def publish(self) -> None:
    files.publish(self._file)

  def close(self) -> None:
    self._file.close()


def _scalar(name: str, value: Any) -> bool | int | float | str | None:
  """A plain scalar; None if not finite."""
  if isinstance(value, str):
    return value
  array = np.asarray(value)
  if array.ndim != 0 or array.dtype == object:
    raise TypeError(f"metric {name} is no scalar: {value!r}")
  value = array.item() if array.dtype.kind in "biu" else float(array)
  return value if math.isfinite(value) else None


def to_row(job: str, step: int, metrics: Mapping[str, Any]) -> Row:
  """One object of the record.

  Values that are not finite become null, and "nonfinite" counts them.
  """
  if clash := set(RESERVED) & set(metrics):
    raise ValueError(f"metrics may not be called {', '.join(sorted(clash))}")
  values = {name: _scalar(name, v) for name, v in metrics.items()}
  row = {"job": job, "step": int(step), **values}
  if lost := sum(v is None for v in values.values()):
    row["nonfinite"] = lost
  return row


class MetricsWriter:
  """Writes a job's metrics and timings; process 0 alone touches the disk.

  Args:
    workdir: holds metrics.jsonl, timings.jsonl and tensorboard/<job>/.
    job: goes into every row.
    order: jobs of the run in order, for `truncate`.
    tensorboard: write events too.
  """

  def __init__(
    self,
    workdir: os.PathLike[str] | str,
    job: str,
    *,
    order: Sequence[str] = (),
    tensorboard: bool = True,
  ):
    self.workdir = epath.Path(workdir)
    self.job = job
    self._order = tuple(order)
    self._active = processes.is_first()
    self._tensorboard = tensorboard
    self._events: EventFile | None = None
    self._purge_step: int | None = None
    self._files: dict[str, _Lines] = {}

  def truncate(self, step: int) -> None:
    """Drops rows after `step`, before a resumed job writes again."""
    self.close()
    self._purge_step = step + 1
    if self._active:
      for name in (METRICS_FILE, TIMINGS_FILE):
        truncate_rows(self.workdir / name, self.job, step, self._order)
    processes.wait_for_all("rows")

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends one row to metrics.jsonl: scalars only, no timings."""
    self._write(METRICS_FILE, "", step, metrics)

  def write_timings(self, step: int, seconds: Mapping[str, Any]) -> None:
    """Appends seconds per part to timings.jsonl, apart from the metrics."""
    self._write(TIMINGS_FILE, "seconds/", step, seconds)

  def _write(
    self, name: str, prefix: str, step: int, values: Mapping[str, Any]
  ) -> None:
    if not self._active:
      return
    row = to_row(self.job, step, values)
    if name not in self._files:
      self._files[name] = _Lines(self.workdir / name)
    self._files[name].append(row)
    scalars = {
      prefix + key: row[key]
      for key in values
      if isinstance(row[key], bool | int | float)
    }
    if self._tensorboard and scalars:
      self._write_events(step, scalars)

  def _write_events(self, step: int, scalars: Mapping[str, float]) -> None:
    """TensorBoard is a view: its failure does not stop a run."""
    try:
      if self._events is None:
        folder = self.workdir / "tensorboard" / self.job
        self._events = EventFile(folder, self._purge_step)
      self._events.write(step, scalars)
    except OSError as error:
      logging.warning("TensorBoard is off: %s", one_line(error))
      self._tensorboard = False

  def publish(self) -> None:
    """Makes all rows visible to later processes; called before a checkpoint."""
    for file in self._files.values():
      file.publish()
    if self._events is not None:
      self._events.publish()

  def close(self) -> None:
    """Closes the files; a later write opens them again."""
    for file in self._files.values():
      file.close()
    self._files = {}
    if self._events is not None:
      with contextlib.suppress(OSError):
        self._events.close()
      self._events = None

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()
