"""Errors a user can mend."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

LINE = 290  # characters of an error line at most, without "error: "


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
  return f' (did you mean "{shown(close[0], 100)}"?)' if close else ""


def one_line(error: BaseException) -> str:
  """Type and first line of an exception's message, of bounded length."""
  text = str(error).strip().splitlines()
  name = type(error).__name__
  return f"{name}: {shown(text[0], 160)}" if text else name


def shown(text: object, limit: int = 60) -> str:
  """Text for an error line: printable, on one line, cut to `limit` characters.

  Line breaks, control characters, lone surrogates and characters without a
  glyph are escaped as in a Python literal.
  """
  try:
    head = str(text)[: limit + 1]
  except ValueError:  # a whole number of thousands of digits
    head = "(a number of thousands of digits)"
  safe = "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in head
  )
  return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def squeeze(message: str, limit: int = LINE) -> str:
  """A message as one printable line; of a longer one the middle is left out."""
  safe = shown(message, len(message) * 10 + 1)
  if len(safe) <= limit:
    return safe
  tail = limit // 3
  return f"{safe[: limit - tail - 5]} ... {safe[-tail:]}"
