"""Metrics of a run: JSON lines are the record, trackers are views of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from jaxreward import files, processes, reading
from jaxreward.errors import UserError, one_line, shown
from jaxreward.files import write_atomic
from jaxreward.training.trackers import Tracker

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

  remaining = [
    line for i, line in enumerate(lines) if line and stays(i + 1, line)
  ]
  data = b"".join(line + b"\n" for line in remaining)
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
    workdir: holds metrics.jsonl and timings.jsonl.
    job: goes into every row.
    order: jobs of the run in order, for `truncate`.
    trackers: name -> function that opens a view of the same numbers, which is
      told the step that a resumed job writes again from, or None.
  """

  def __init__(
    self,
    workdir: os.PathLike[str] | str,
    job: str,
    *,
    order: Sequence[str] = (),
    trackers: Mapping[str, Callable[[int | None], Tracker]] | None = None,
  ):
    self.workdir = epath.Path(workdir)
    self.job = job
    self._order = tuple(order)
    self._active = processes.is_first()
    self._openers = dict(trackers or {})
    self._trackers: dict[str, Tracker] = {}
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
    if scalars:
      self._show(lambda tracker: tracker.write(step, scalars), opens=True)

  def _show(
    self, action: Callable[[Tracker], None], *, opens: bool = False
  ) -> None:
    """Tells every tracker; one that fails is left out from then on."""
    for name in list(self._openers):
      try:
        if opens and name not in self._trackers:
          self._trackers[name] = self._openers[name](self._purge_step)
        if name in self._trackers:
          action(self._trackers[name])
      except Exception as error:  # a service may raise anything
        logging.warning("tracker %s is off: %s", name, one_line(error))
        del self._openers[name]
        self._trackers.pop(name, None)

  def publish(self) -> None:
    """Makes all rows visible to later processes; called before a checkpoint."""
    for file in self._files.values():
      file.publish()
    self._show(lambda tracker: tracker.publish())

  def close(self) -> None:
    """Closes the files; a later write opens them again."""
    for file in self._files.values():
      file.close()
    self._files = {}
    self._show(lambda tracker: tracker.close())
    self._trackers = {}

  def __enter__(self) -> MetricsWriter:
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()
