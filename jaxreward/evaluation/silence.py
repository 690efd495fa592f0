"""Detects iterations without a training signal in the rows of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
FAINT = 1e-3  # mean |advantage|, of scores whose spread is below epsilon


def _is(row: Row, name: str, test: Callable[[float], bool]) -> bool:
  value = row.get(name)
  number = isinstance(value, int | float) and math.isfinite(value)
  return number and test(value)


def reason(row: Row) -> str:
  """Why an iteration had no signal, with a fix; empty if it had one."""
  tied = _is(row, "zero_variance_share", lambda x: x >= 1)
  if tied and _is(row, "panel/diversity", lambda x: x == 0):
    return (
      "the pictures of every group are equal: look at"
      " config.init.checkpoint, and at config.rollout"
    )
  if tied:
    return (
      "all pictures of a prompt score the same: look at config.rewards, its"
      " weights and kinds, and at the pictures"
    )
  if _is(row, "advantage_abs", lambda x: x < FAINT):
    return (
      "scores of a prompt differ by less than config.advantage.epsilon: scale"
      " them, or lower it"
    )
  if _is(row, "update_norm", lambda x: x == 0):
    return "no parameter moves: look at config.optimizer.learning_rate"
  return ""


def running(rows: Sequence[Row]) -> tuple[int, str]:
  """(last consecutive iterations without a signal, reason of the last)."""
  why = reason(rows[-1]) if rows else ""
  count = 0
  for row in reversed(rows):
    if not reason(row):
      break
    count += 1
  return count, why


def warning(rows: Sequence[Row], patience: int) -> str | None:
  """A line after `patience` consecutive iterations without a signal, and again
  after each doubling."""
  count, why = running(rows)
  times = count / patience
  if count < patience or not math.log2(times).is_integer():
    return None
  return f"{count} iterations on end have taught nothing: {why}"


def summary(rows: Sequence[Row]) -> str | None:
  """A line for the report on iterations without a signal."""
  rows = [r for r in rows if "zero_variance_share" in r]
  silent = [why for why in map(reason, rows) if why]
  if len(silent) * 2 < len(rows) or not silent:
    return None
  why = max(silent, key=silent.count)
  return f"{len(silent)} of {len(rows)} iterations have taught nothing: {why}."
