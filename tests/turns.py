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


def one_due(names: list[str]) -> list:
  """Some recipes, `slow` but for one of them with every commit."""
  now = names[turn() % len(names)]
  return [
    pytest.param(name, marks=[] if name == now else pytest.mark.slow)
    for name in names
  ]


def every(count: int, first: int = 0):
  """A decorator: `slow` except in one commit of `count`; `first` tells which."""
  due = turn() % count == first
  return (lambda test: test) if due else pytest.mark.slow
