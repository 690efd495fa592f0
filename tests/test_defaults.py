"""docs/defaults.md has every option, with the default that the code has."""

import ast
import inspect
import pathlib

import pytest

from jaxreward import (
  advantages,
  composition,
  objectives,
  players,
  regularizers,
)
from jaxreward.feeds import tail
from jaxreward.flow import steppers, times, windows
from jaxreward.models.vlm import verdicts
from jaxreward.training import references

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "defaults.md"
REGISTRIES = (
  objectives.REGISTRY,
  advantages.REGISTRY,
  composition.REGISTRY,
  composition.COMBINERS,
  regularizers.REGISTRY,
  players.PLAYERS,
  references.RULES,
  steppers.REGISTRY,
  windows.REGISTRY,
  times.DENSITIES,
  tail.DEPTHS,
  verdicts.RULES,
)
# Given by the program, not by a config.
SUPPLIED = {
  ("win_rate", "rate"),
  ("lower_bound", "stds"),
  ("preference_sum", "references"),
  ("log_sigmoid_sum", "references"),
  ("percentile_sum", "references"),
  ("trusted_sum", "iteration"),
  ("staged", "iteration"),
  ("staged", "iterations"),
  ("novel_sum", "images"),
  ("step_kl", "sampler"),
  ("gated_step_kl", "sampler"),
  ("dual_kl", "sampler"),
}


def options() -> dict[tuple[str, str], object]:
  """(method, option) -> default, from the signatures."""
  found = {
    (name, p.name): p.default
    for registry in REGISTRIES
    for name, function in registry.items()
    for p in inspect.signature(function).parameters.values()
    if p.kind is p.KEYWORD_ONLY
  }
  return {k: v for k, v in found.items() if k not in SUPPLIED}


def rows() -> list[list[str]]:
  """Cells of the first table."""
  table = PAGE.read_text(encoding="utf-8").split("\n\n")[2]
  lines = table.splitlines()[2:]
  return [[c.strip() for c in line.strip("|").split("|")] for line in lines]


def test_every_option_has_one_row():
  named = [(method, option) for method, option, *_ in rows()]
  assert len(named) == len(set(named))
  assert set(named) == set(options())


@pytest.mark.turns(3)
@pytest.mark.parametrize("row", rows(), ids=lambda row: ".".join(row[:2]))
def test_the_default_is_the_signatures(row):
  method, option, ours, theirs, where, why = row
  default = options()[method, option]
  assert where
  if default is inspect.Parameter.empty:
    assert ours == "required"
    return
  assert ast.literal_eval(ours) == default
  assert type(ast.literal_eval(ours)) is type(default)
  if (
    theirs == "unknown"
  ):  # no code that could be read, and no value in the text
    assert "unverified" in where
    return
  assert bool(why) == (ast.literal_eval(theirs) != default)
