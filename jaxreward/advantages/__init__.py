"""Scores into credit: advantage(signal, mask, stats, *, ...) -> (A, stats)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.advantages.group import (
  check_group_size,
  group,
  leave_one_out,
  zero_variance_share,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "group": group,
  "leave_one_out": leave_one_out,
}

__all__ = [
  "REGISTRY",
  "check_group_size",
  "group",
  "leave_one_out",
  "zero_variance_share",
]
