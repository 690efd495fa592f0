"""Tests that take turns: each commit runs some of them, `pytest -m slow` the rest."""

import functools
import os
import pathlib
import subprocess
import zlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@functools.cache
def turn() -> int:
  """Where the rotation stands: the number of commits, or JAXREWARD_TURN.

  A shallow clone has not all of them: there it is a number drawn by the hash.
  """
  if "JAXREWARD_TURN" in os.environ:
    return int(os.environ["JAXREWARD_TURN"])

  def git(*words):
    done = subprocess.run(
      ["git", *words], cwd=ROOT, text=True, capture_output=True,
      check=False,
    )  # fmt: skip
    return done.stdout.strip()

  if git("rev-parse", "--is-shallow-repository") == "true":
    return int(git("rev-parse", "HEAD"), 16)
  return int(git("rev-list", "--count", "HEAD") or 0)


def slow_but(cases, due) -> list:
  """Values of a parameter, or tuples of several, `slow` those that are not due."""
  return [
    pytest.param(
      *(case if isinstance(case, tuple) else (case,)),
      marks=[] if case in due else pytest.mark.slow,
    )
    for case in cases
  ]


def drawn(count: int, turn: int) -> int:
  """A number below `count`, drawn by the turn: it keeps step with no rotation."""
  return zlib.crc32(f"{count} {turn}".encode()) % count


def one_due(cases: list) -> list:
  """Some cases, `slow` but for one of them, drawn with every commit."""
  return slow_but(cases, [cases[drawn(len(cases), turn())]])


def take(items) -> None:
  """Adds `slow` to tests marked `turns(count)` whose turn it is not.

  Of a function's cases those that are due rotate. A whole file that is marked
  (`pytestmark`) takes its turn together, for what its tests share; `first` tells when.
  """
  cases: dict[str, int] = {}
  for item in items:
    mark = item.get_closest_marker("turns")
    if mark is None:
      continue
    count, *first = mark.args
    function = f"{item.module.__name__}.{getattr(item, 'originalname', '')}"
    place = first[0] if first else zlib.crc32(function.encode())
    if mark not in item.listchain()[-2].own_markers:
      place += cases.setdefault(function, 0)
      cases[function] += 1
    if place % count != turn() % count:
      item.add_marker(pytest.mark.slow)
