"""Many scores into one: compose(scores, masks, weights) -> (signal, mask).

One that takes `stds` by keyword reads {name: [P, G]}, how unsure each score is.
`separate` keeps them apart; a combiner then makes one gradient of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.composition.gradients import (
  marble,
  min_norm,
  sum_of_gradients,
)
from jaxreward.composition.sums import (
  advantage_sum,
  apart,
  failures,
  gdpo,
  lower_bound,
  separate,
  weighted_sum,
  win_rate,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "weighted_sum": weighted_sum,
  "advantage_sum": advantage_sum,
  "gdpo": gdpo,
  "lower_bound": lower_bound,
  "win_rate": win_rate,
  "separate": separate,
}
# Gradients of rewards that stay apart into one.
COMBINERS: dict[str, Callable[..., Any]] = {
  "sum": sum_of_gradients,
  "marble": marble,
}

__all__ = [
  "COMBINERS",
  "REGISTRY",
  "advantage_sum",
  "apart",
  "failures",
  "gdpo",
  "lower_bound",
  "marble",
  "min_norm",
  "separate",
  "sum_of_gradients",
  "weighted_sum",
  "win_rate",
]
