"""Progress of a loop: a bar with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from jaxreward import processes

_LINE_EVERY = 10.0  # seconds between plain lines


def format_seconds(seconds: float) -> str:
  """3:07 or 1:02:45."""
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minute:02d}:{second:02d}"
  return f"{minute}:{second:02d}"


def format_metrics(metrics: Mapping[str, Any]) -> str:
  """reward=0.531 accuracy=0.4"""
  return " ".join(f"{name}={float(v):.3g}" for name, v in metrics.items())


class Progress:
  """Reports the progress of a loop, on process 0 only.

      with Progress("align", total=100, start=step) as progress:
        progress.update(step, {"reward": 0.5})

  Args:
    title: name of the loop.
    total: number of steps.
    start: steps done before the run was resumed.
    line_every: seconds between plain lines; first and last always appear.
    terminal: draw a bar; by default if stderr is a terminal.
    clock: seconds, for tests.
  """

  def __init__(
    self,
    title: str,
    total: int,
    *,
    start: int = 0,
    line_every: float = _LINE_EVERY,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.title, self.total, self.start = title, total, start
    self._line_every = line_every
    self._clock = clock
    self._active = processes.is_first()
    self._terminal = _is_terminal() if terminal is None else terminal
    self._bar: Any = None
    self._task: Any = None
    self._first: tuple[int, float] | None = None  # step and time, compiled
    self._last_line = -float("inf")

  def __enter__(self) -> Progress:
    if self._active and self._terminal:
      self._bar = _make_bar()
      self._task = self._bar.add_task(
        self.title, total=self.total, completed=self.start, metrics="", eta=""
      )
      self._bar.start()
    return self

  def __exit__(self, *_: Any) -> None:
    bar, self._bar = self._bar, None
    if bar is not None:
      with contextlib.suppress(OSError):  # the terminal is gone
        bar.stop()

  def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Reports that `step` steps are done, with a few metrics."""
    if not self._active:
      return
    text = format_metrics(metrics or {})
    now = self._clock()
    is_first = self._first is None
    if self._first is None:
      self._first = (step, now)
    if self._bar is not None:
      with contextlib.suppress(OSError):
        self._bar.update(
          self._task, completed=step, metrics=text, eta=self._eta(step, now)
        )
      return
    is_due = now - self._last_line >= self._line_every
    if is_first or is_due or step >= self.total:
      self._last_line = now
      logging.info(
        "%s %d/%d%s%s", self.title, step, self.total,
        self._eta(step, now), f"  {text}" if text else "",
      )  # fmt: skip

  def _eta(self, step: int, now: float) -> str:
    """Time left, by the steps after the first one, which compiles."""
    if self._first is None or step <= self._first[0] or step >= self.total:
      return ""
    pace = (now - self._first[1]) / (step - self._first[0])
    return f"  {format_seconds(pace * (self.total - step))} left"


def _is_terminal() -> bool:
  try:
    return sys.stderr.isatty()
  except (AttributeError, ValueError):  # none, or closed
    return False


def _make_bar() -> Any:
  import rich.console
  import rich.progress as rp

  return rp.Progress(
    rp.TextColumn("{task.description}"),
    rp.BarColumn(bar_width=24),
    rp.MofNCompleteColumn(),
    rp.TimeElapsedColumn(),
    rp.TextColumn("{task.fields[eta]}"),
    rp.TextColumn("{task.fields[metrics]}"),
    console=rich.console.Console(stderr=True),
    refresh_per_second=2,  # drawing competes with the run for the CPU
  )
