"""Stopping a run on Ctrl-C or SIGTERM between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from absl import logging

from jaxreward.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
  """The first signal asks, the second insists.

      with GracefulStop() as stop:
        for step in range(total):
          ...
          if stop.requested:
            checkpoints.save(step + 1, state, extras, wait=True)
            stop.exit(f"saved step {step + 1}")

  Attributes:
    requested: whether a signal has come.
    signum: which one, or None.
  """

  def __init__(self):
    self.signum: int | None = None
    self._previous: dict[int, Any] = {}

  @property
  def requested(self) -> bool:
    return self.signum is not None

  def __enter__(self) -> GracefulStop:
    if threading.current_thread() is threading.main_thread():
      for signum in _SIGNALS:
        self._previous[signum] = signal.signal(signum, self._on_signal)
    return self

  def __exit__(self, *_: Any) -> None:
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)
    self._previous = {}

  def _on_signal(self, signum: int, frame: FrameType | None) -> None:
    del frame
    if self.requested:
      raise KeyboardInterrupt
    self.signum = signum
    logging.info("stopping after this step; once more to quit without saving")

  def exit(self, what_is_saved: str) -> None:
    """Leaves the job, once the loop has saved.

    Raises:
      Stopped: always; the entry point turns it into the exit code.
    """
    raise Stopped(
      f"stopped: {what_is_saved}; the same command goes on from there",
      self.signum or signal.SIGINT,
    )
