"""Scores into credit: advantage(signal, mask, ...) -> A, or (init, update)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.advantages.absolute import (
  exponential,
  given,
  global_and_local,
)
from jaxreward.advantages.by_step import (
  branched,
  calibrated,
  critic,
  dense,
  equalised,
  gains,
  noise_weighted,
  values,
)
from jaxreward.advantages.contract import (
  Advantage,
  Sizes,
  as_advantage,
  credit,
  with_columns,
)
from jaxreward.advantages.group import (
  check_group_size,
  group,
  leave_one_out,
  whitened,
  zero_variance_share,
)
from jaxreward.advantages.history import per_prompt
from jaxreward.advantages.novelty_gate import gardo
from jaxreward.advantages.process import (
  by_difficulty,
  by_phase,
  merged,
  renormalised,
  segments,
)
from jaxreward.advantages.rubrics import revised
from jaxreward.advantages.selection import (
  against_one,
  best_and_worst,
  branch_ends,
  curated,
  filtered,
  sifted,
)
from jaxreward.advantages.step_rewards import (
  implicit_process,
  outcome_and_process,
  outcome_and_values,
  redistributed,
  whole_return,
)
from jaxreward.advantages.uncertainty import confident, place_weights, regional

REGISTRY: dict[str, Callable[..., Any]] = {
  "group": group,
  "leave_one_out": leave_one_out,
  "per_prompt": per_prompt,
  "dense": dense,
  "calibrated": calibrated,
  "noise_weighted": noise_weighted,
  "branched": branched,
  "equalised": equalised,
  "values": values,
  "given": given,
  "exponential": exponential,
  "global_and_local": global_and_local,
  "best_and_worst": best_and_worst,
  "branch_ends": branch_ends,
  "sifted": sifted,
  "filtered": filtered,
  "against_one": against_one,
  "curated": curated,
  "critic": critic,
  "implicit_process": implicit_process,
  "outcome_and_process": outcome_and_process,
  "outcome_and_values": outcome_and_values,
  "redistributed": redistributed,
  "whitened": whitened,
  "gardo": gardo,
  "confident": confident,
  "regional": regional,
  "renormalised": renormalised,
  "segments": segments,
  "by_phase": by_phase,
  "by_difficulty": by_difficulty,
  "revised": revised,
}

__all__ = [
  "REGISTRY",
  "Advantage",
  "Sizes",
  "against_one",
  "as_advantage",
  "best_and_worst",
  "branch_ends",
  "by_difficulty",
  "by_phase",
  "check_group_size",
  "confident",
  "credit",
  "critic",
  "curated",
  "dense",
  "equalised",
  "exponential",
  "filtered",
  "gains",
  "gardo",
  "given",
  "global_and_local",
  "group",
  "implicit_process",
  "leave_one_out",
  "merged",
  "noise_weighted",
  "outcome_and_process",
  "outcome_and_values",
  "per_prompt",
  "place_weights",
  "redistributed",
  "regional",
  "renormalised",
  "revised",
  "segments",
  "sifted",
  "values",
  "whitened",
  "whole_return",
  "with_columns",
  "zero_variance_share",
]
