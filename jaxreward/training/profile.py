"""A trace of a few steps, and a table of step time by part."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

from jaxreward import buckets
from jaxreward.files import copy_folder, write_atomic

TABLE_FILE = "parts.txt"
REST = "rows and checkpoints"
_TRACED = 3  # steps
_COMPILING = 1  # warm-up steps, left out of the table


class Profile:
  """Wraps the steps of a loop.

  Args:
    folder: gets the trace, for TensorBoard or Perfetto, and the table; None to
      do nothing.
  """

  def __init__(self, folder: epath.Path | None):
    self.folder = folder
    self.steps: list[dict[str, float]] = []
    self._seen, self._begun, self._tracing = 0, 0.0, ""

  def begin(self) -> None:
    """Before a step."""
    self._begun = time.perf_counter()
    if self.folder and self._seen == _COMPILING:
      self._tracing = str(self.folder)
      if buckets.is_bucket(self.folder):  # the profiler cannot write there
        self._tracing = tempfile.mkdtemp()
      jax.profiler.start_trace(self._tracing)

  def end(self, seconds: Mapping[str, float]) -> None:
    """After a step, its row and its checkpoint; seconds by part."""
    total = time.perf_counter() - self._begun
    self._seen += 1
    if self._seen > _COMPILING:
      rest = max(total - sum(seconds.values()), 0.0)
      self.steps.append({**seconds, REST: rest})
    if self._seen == _COMPILING + _TRACED:
      self._stop()

  def _stop(self) -> None:
    place, self._tracing = self._tracing, ""
    if not (place and self.folder):
      return
    jax.profiler.stop_trace()
    if place != str(self.folder):
      copy_folder(place, self.folder)
      shutil.rmtree(place)

  def __enter__(self) -> Profile:
    return self

  def __exit__(self, *_: Any) -> None:
    self._stop()
    if self.folder and self.steps:
      text = table(self.steps)
      write_atomic(self.folder / TABLE_FILE, text + "\n")
      logging.info("%s\n%s", self.folder, text)


def table(steps: list[dict[str, float]]) -> str:
  """Mean seconds and share of every part, over all steps."""
  names = list(dict.fromkeys(name for step in steps for name in step))
  mean = {n: sum(s.get(n, 0.0) for s in steps) / len(steps) for n in names}
  total = sum(mean.values())
  lines = [f"{'part':<22}{'s per step':>12}{'share':>9}"]
  for name, value in (*mean.items(), ("whole step", total)):
    share = value / total if total else 0.0
    lines.append(f"{name:<22}{value:>12.4f}{share:>9.1%}")
  return "\n".join([*lines, f"mean of {len(steps)} steps"])
