"""Errors a user can mend."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
  """One clear line: the field, the value and the mend."""


class Stopped(Exception):
  """A run that was asked to stop, and has saved; the same command resumes it.

  Attributes:
    signum: the signal that asked, which sets the exit code.
  """

  def __init__(self, message: str, signum: int = signal.SIGINT):
    super().__init__(message)
    self.signum = int(signum)


class Lost(Exception):
  """Another process of the run is gone; all are started again together."""


def nearest(name: str, options: Iterable[str]) -> str:
  """' (did you mean "x"?)' for the closest option, or an empty string."""
  close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.4)
  return f' (did you mean "{close[0]}"?)' if close else ""


def one_line(error: BaseException) -> str:
  """Type and first line of an exception's message."""
  text = str(error).strip().splitlines()
  return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
