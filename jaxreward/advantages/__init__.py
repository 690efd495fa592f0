"""Scores into credit: advantage(signal, mask, ...) -> A, or (init, update)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.advantages.by_step import dense, gains
from jaxreward.advantages.contract import (
  Advantage,
  Sizes,
  as_advantage,
  credit,
)
from jaxreward.advantages.group import (
  check_group_size,
  group,
  leave_one_out,
  zero_variance_share,
)
from jaxreward.advantages.tracked import per_prompt

REGISTRY: dict[str, Callable[..., Any]] = {
  "group": group,
  "leave_one_out": leave_one_out,
  "per_prompt": per_prompt,
  "dense": dense,
}

__all__ = [
  "REGISTRY",
  "Advantage",
  "Sizes",
  "as_advantage",
  "check_group_size",
  "credit",
  "dense",
  "gains",
  "group",
  "leave_one_out",
  "per_prompt",
  "zero_variance_share",
]
