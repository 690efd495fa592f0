"""Many scores into one: compose(scores, masks, weights) -> (signal, mask).

One that takes `stds` by keyword reads {name: [P, G]}, how unsure each score is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.composition.sums import (
  advantage_sum,
  failures,
  gdpo,
  lower_bound,
  weighted_sum,
  win_rate,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "weighted_sum": weighted_sum,
  "advantage_sum": advantage_sum,
  "gdpo": gdpo,
  "lower_bound": lower_bound,
  "win_rate": win_rate,
}

__all__ = [
  "REGISTRY",
  "advantage_sum",
  "failures",
  "gdpo",
  "lower_bound",
  "weighted_sum",
  "win_rate",
]
