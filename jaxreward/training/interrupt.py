"""Graceful stop on Ctrl-C, SIGTERM or a hang-up, between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from absl import logging

from jaxreward import processes
from jaxreward.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class GracefulStop:
  """The first signal requests a stop, the second forces it.

  A signal to one process stops all of them, at the same step.

      with GracefulStop() as stop:
        for step in range(total):
          ...
          if stop.agreed():
            checkpoints.save(step + 1, state, extras, wait=True)
            stop.exit(f"saved step {step + 1}")

  Args:
    grace: seconds after SIGTERM (a preemption notice) until the process ends,
      saved or not; 0 for no limit.
    last: describes the newest checkpoint in that case.

  Attributes:
    requested: whether this process has received a signal.
    signum: which one, or None.
  """

  def __init__(
    self, grace: float = 0.0, last: Callable[[], str] = lambda: "nothing"
  ):
    self.signum: int | None = None
    self._grace, self._last = grace, last
    self._asked: int | None = None
    self._limit: threading.Timer | None = None
    self._previous: dict[int, Any] = {}

  @property
  def requested(self) -> bool:
    return self.signum is not None

  def __enter__(self) -> GracefulStop:
    if threading.current_thread() is threading.main_thread():
      for signum in _SIGNALS:
        if signal.getsignal(signum) is signal.SIG_IGN:  # as under nohup
          continue
        self._previous[signum] = signal.signal(signum, self._on_signal)
    return self

  def __exit__(self, *_: Any) -> None:
    if self._limit:
      self._limit.cancel()
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)
    self._previous = {}

  def _on_signal(self, signum: int, frame: FrameType | None) -> None:
    del frame
    if self.requested:
      raise KeyboardInterrupt
    self.signum = signum
    if signum == signal.SIGTERM and self._grace:
      self._limit = threading.Timer(self._grace, self._give_up)
      self._limit.daemon = True
      self._limit.start()
    logging.info("stopping after this step; once more to quit without saving")

  def _give_up(self) -> None:
    try:
      logging.warning(
        "not saved within %g s of SIGTERM (config.checkpoint.grace); the same"
        " command goes on from %s", self._grace, self._last(),
      )  # fmt: skip
    finally:
      os._exit(128 + signal.SIGTERM)

  def agreed(self) -> bool:
    """Whether any process got a signal; every process has to call it."""
    if processes.count() == 1:
      return self.requested
    signum = max(int(word) for word in processes.tell(str(self.signum or 0)))
    self._asked = signum or None
    return bool(signum)

  def exit(self, what_is_saved: str) -> None:
    """Leaves the job, once the loop has saved.

    Raises:
      Stopped: always; the entry point turns it into the exit code.
    """
    raise Stopped(
      f"stopped: {what_is_saved}; the same command goes on from there",
      self.signum or self._asked or signal.SIGINT,
    )
