"""What the runs of a sweep come to: mean and deviation over seeds, in Markdown.

For the table printers of configs/sweeps.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

# (config of a run, its evaluation) -> (its cell, a number), for each of its cells
Numbers = Callable[
  [Mapping[str, Any], Mapping[str, Any]], Iterable[tuple[Hashable, float]]
]


def cells(
  folder: str | os.PathLike[str], numbers: Numbers
) -> dict[Hashable, list[float]]:
  """Numbers of all runs that a folder holds, by their cell."""
  values = collections.defaultdict(list)
  for path in sorted(pathlib.Path(folder).glob("*/evaluation.json")):
    config = json.loads((path.parent / "config.json").read_text())
    for key, number in numbers(config, json.loads(path.read_text())):
      values[key].append(number)
  return values


def of_entries(
  folder: str | os.PathLike[str], count: int
) -> dict[int, Mapping[str, Any]]:
  """Evaluations of the finished runs of a sweep, by the number of their entry.

  Args:
    folder: working directory of the sweep.
    count: of its entries.
  """
  paths = {
    i: pathlib.Path(folder) / str(i) / "evaluation.json" for i in range(count)
  }
  evaluations = {
    i: json.loads(path.read_text())
    for i, path in paths.items()
    if path.exists()
  }
  return {i: e for i, e in evaluations.items() if "after" in e}


def mean(values: Sequence[float], digits: int = 2) -> str:
  """ "0.92 ± 0.03": mean and deviation of numbers."""
  if not values:
    return "–"
  spread = statistics.stdev(values) if len(values) > 1 else 0.0
  return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def percent(values: Sequence[float]) -> str:
  """ "92.1 ± 0.3 (3)": mean and deviation of shares in percent, and their number."""
  if not values:
    return "–"
  shares = [100 * value for value in values]
  spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
  return f"{statistics.mean(shares):.1f} ± {spread:.1f} ({len(shares)})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table of text cells."""
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
