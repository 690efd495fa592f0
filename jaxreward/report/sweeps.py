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

# evaluation.json of a run -> column -> number
Numbers = Callable[[Mapping[str, Any]], Mapping[str, float]]


def cells(
  folder: str | os.PathLike[str],
  runs: Iterable[tuple[Hashable, Mapping[str, Any]]],
  numbers: Numbers,
  last: str = "after",
) -> dict[tuple[Hashable, str], list[float]]:
  """(name, column) -> numbers of the finished runs that a sweep's folder holds.

  Args:
    folder: working directory of the sweep.
    runs: (name, entry) of each run, in the order of the sweep; seeds share a name.
    numbers: of one run.
    last: what a finished run has in its evaluation.
  """
  values = collections.defaultdict(list)
  for i, (name, _) in enumerate(runs):
    path = pathlib.Path(folder) / str(i) / "evaluation.json"
    evaluation = json.loads(path.read_text()) if path.exists() else {}
    if last in evaluation:
      for column, number in numbers(evaluation).items():
        values[name, column].append(number)
  return values


def entries(
  runs: Iterable[tuple[Hashable, Mapping[str, Any]]],
) -> list[Mapping[str, Any]]:
  """What `get_sweep` returns of such runs."""
  return [entry for _, entry in runs]


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
