"""Tests that take turns: each commit runs some of them, `pytest -m slow` the rest."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


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


def one_due(cases: list) -> list:
  """Some cases, `slow` but for one of them with every commit."""
  return slow_but(cases, [cases[turn() % len(cases)]])


def every(count: int, first: int = 0):
  """A decorator: `slow` except in one commit of `count`; `first` tells which."""
  due = turn() % count == first
  return (lambda test: test) if due else pytest.mark.slow
