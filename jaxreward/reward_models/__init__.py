"""Reward models: losses of preferences, their accuracy and calibration.

A loss is `loss(scores [..., 2], label_prob, mask, *, ...) -> Mean`; the
listwise one takes scores [..., N], best first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.reward_models.preference_losses import (
  bradley_terry,
  hinge,
  plackett_luce,
  rao_kupper,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "bradley_terry": bradley_terry,
  "rao_kupper": rao_kupper,
  "hinge": hinge,
}
LISTWISE: dict[str, Callable[..., Any]] = {"plackett_luce": plackett_luce}

__all__ = [
  "LISTWISE",
  "REGISTRY",
  "bradley_terry",
  "hinge",
  "plackett_luce",
  "rao_kupper",
]
