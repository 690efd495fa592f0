"""Many scores into one: compose(scores, masks, weights) -> (signal, mask)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.composition.sums import (
  advantage_sum,
  failures,
  gdpo,
  weighted_sum,
  win_rate,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "weighted_sum": weighted_sum,
  "advantage_sum": advantage_sum,
  "gdpo": gdpo,
  "win_rate": win_rate,
}

__all__ = [
  "REGISTRY",
  "advantage_sum",
  "failures",
  "gdpo",
  "weighted_sum",
  "win_rate",
]
