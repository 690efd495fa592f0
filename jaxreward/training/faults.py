"""Messages about non-finite values that a step has left out."""

from __future__ import annotations

import math
from collections.abc import Mapping

PICTURES = "failed_pictures"
SCORES = "failed/"  # before a reward's name


def describe(row: Mapping[str, float]) -> dict[str, str]:
  """Name of each fault in a row of metrics -> its message."""
  lines = {}
  if count := row.get(PICTURES):
    lines[PICTURES] = f"{count:.0f} pictures that were not finite"
  for name, count in row.items():
    if name.startswith(SCORES) and count:
      reward = name.removeprefix(SCORES)
      lines[name] = f'{count:.0f} scores of the reward "{reward}"'
  if share := row.get("skipped_updates"):
    part = "gradient" if math.isfinite(row.get("loss", 0.0)) else "loss"
    lines[part] = f"{share:.0%} of its updates, without a finite {part}"
  return lines
