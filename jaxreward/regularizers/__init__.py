"""Terms added to an objective: regularizer(arrays, mask, *, ...) -> Mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.regularizers.kl import (
  data_matching,
  dual_kl,
  form_of,
  gated_step_kl,
  group_guided_distance,
  group_velocity_distance,
  step_kl,
  tail_distance,
  velocity_distance,
)
from jaxreward.regularizers.sample_estimates import sampled_kl, step_drop

REGISTRY: dict[str, Callable[..., Any]] = {
  "step_kl": step_kl,
  "gated_step_kl": gated_step_kl,
  "velocity_distance": velocity_distance,
  "group_velocity_distance": group_velocity_distance,
  "group_guided_distance": group_guided_distance,
  "sampled_kl": sampled_kl,
  "step_drop": step_drop,
  "dual_kl": dual_kl,
  "data_matching": data_matching,
  "tail_distance": tail_distance,
}

__all__ = [
  "REGISTRY",
  "data_matching",
  "dual_kl",
  "form_of",
  "gated_step_kl",
  "group_guided_distance",
  "group_velocity_distance",
  "sampled_kl",
  "step_drop",
  "step_kl",
  "tail_distance",
  "velocity_distance",
]
