"""Terms added to an objective: regularizer(arrays, mask, *, ...) -> Mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.regularizers.kl import (
  DEFAULT_FORM,
  form_of,
  step_kl,
  velocity_distance,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "step_kl": step_kl,
  "velocity_distance": velocity_distance,
}

__all__ = [
  "DEFAULT_FORM",
  "REGISTRY",
  "form_of",
  "step_kl",
  "velocity_distance",
]
