"""Errors that a user can fix."""

from __future__ import annotations

import difflib
import math
import numbers
import signal
from collections.abc import Iterable
from typing import Any

MOST_STEPS = 10_000  # of a sampler
LARGEST = 10_000_000  # count or size; no machine holds more
_TOO_LARGE = 10**300
LINE = 290  # characters of an error line at most, without "error: "


class UserError(Exception):
  """One clear line: the field, the value and the fix."""


class Stopped(Exception):
  """A stop was requested and the run has saved; the same command resumes it.

  Attributes:
    signum: the signal received, which sets the exit code.
  """

  def __init__(self, message: str, signum: int = signal.SIGINT):
    super().__init__(message)
    self.signum = int(signum)


class Lost(Exception):
  """Another process of the run is gone; all must be restarted together."""


def require_counts(
  prefix: str, *, least: int = 1, most: int = LARGEST, **values: int
) -> None:
  """Refuses counts and sizes that are not whole numbers in a range.

  Args:
    prefix: of their names in the message, such as "config.model.".
    least: smallest value.
    most: largest value.
    **values: by name.

  Raises:
    UserError: names the field, its value and the range.
  """
  for name, value in values.items():
    is_whole = isinstance(value, numbers.Integral) and not isinstance(
      value, bool
    )
    if not is_whole or value < least:
      limit = f"{least} or more"
    elif value > most:
      limit = f"at most {most:,}"
    else:
      continue
    raise UserError(
      f"{prefix}{name}={shown(value, 20)}: it must be a whole number, {limit}"
    )


def require_positive(prefix: str, **values: float | None) -> None:
  """Refuses numbers that are not finite and greater than 0; None is left out.

  Args:
    prefix: of their names in the message, such as "objective.".
    **values: by name.

  Raises:
    UserError: names the field, its value and the range.
  """
  for name, value in values.items():
    if value is not None and not (is_finite(value) and value > 0):
      raise UserError(
        f"{prefix}{name}={shown(value)}: expected a number greater than 0"
      )


def require_not_negative(prefix: str, **values: float | None) -> None:
  """As `require_positive`, with 0 allowed."""
  for name, value in values.items():
    if value is not None and not (is_finite(value) and value >= 0):
      raise UserError(f"{prefix}{name}={shown(value)}: expected a number >= 0")


def is_finite(value: Any) -> bool:
  """Whether a value is a finite number, and not a bool."""
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    return False
  if isinstance(value, int):  # may exceed the range of floats
    return abs(int(value)) < _TOO_LARGE
  return math.isfinite(value)


def nearest(name: str, options: Iterable[str]) -> str:
  """' (did you mean "x"?)' for the closest option, or an empty string."""
  close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.4)
  return f' (did you mean "{shown(close[0], 100)}"?)' if close else ""


def one_line(error: BaseException) -> str:
  """Type and first line of an exception's message, of bounded length."""
  text = text_of(error).strip().splitlines()
  name = type(error).__name__
  return f"{name}: {shown(text[0], 160)}" if text else name


def text_of(value: object) -> str:
  """`str(value)`, even where a user's class raises in `__str__`."""
  try:
    return str(value)
  except RecursionError:
    return "(nested too deeply to be shown)"
  except ValueError as error:
    if isinstance(value, int):
      return "(a number of thousands of digits)"
    return f"(its text cannot be had: {type(error).__name__})"
  except Exception as error:
    return f"(its text cannot be had: {type(error).__name__})"


def shown(text: object, limit: int = 60) -> str:
  """Text for an error line: printable, on one line, cut to `limit` characters.

  Line breaks, control characters, lone surrogates and characters without a
  glyph are escaped as in a Python literal. Longer text loses its middle: the end
  of a path says which file it is.
  """
  string = text_of(text)
  if len(string) <= limit and len(safe := _escaped(string)) <= limit:
    return safe
  tail = limit // 3
  head = _escaped(string[:limit])[: limit - 3 - tail]
  return f"{head}...{_escaped(string[-limit:])[-tail:]}"


def _escaped(text: str) -> str:
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )


def squeeze(message: str, limit: int = LINE) -> str:
  """A message as one printable line; a longer one loses its middle."""
  safe = shown(message, len(message) * 10 + 1)
  if len(safe) <= limit:
    return safe
  tail = limit // 3
  return f"{safe[: limit - tail - 5]} ... {safe[-tail:]}"
