"""Many scores into one: compose(scores, masks, weights) -> (signal, mask).

One that takes `stds` by keyword reads {name: [P, G]}, how unsure each score is, and
`references` {name: [P, M]}, scores of the policy where training began,
`iteration` the number of the iteration, and `images` [P, G, H, W, C] the samples.
`separate` keeps them apart; a combiner then makes one gradient of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.composition.aspects import (
  discrepancy,
  own_and_others,
  viescore,
)
from jaxreward.composition.dominance import chain, pareto
from jaxreward.composition.gates import (
  base_and_bonus,
  gated_sum,
  lexicographic,
  mastered_first,
)
from jaxreward.composition.gradients import (
  bilevel,
  marble,
  min_norm,
  sum_of_gradients,
)
from jaxreward.composition.novelty import duplicates, novel_sum
from jaxreward.composition.references import (
  log_sigmoid_sum,
  percentile_sum,
  preference_sum,
)
from jaxreward.composition.reliance import (
  bonus_if_consistent,
  tempered,
  tiers,
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
from jaxreward.composition.transforms import (
  check_weights,
  ensemble,
  harmonic,
  tamed_sum,
)
from jaxreward.composition.trust import (
  prerequisite,
  routed,
  staged,
  trusted_sum,
  whole_and_parts,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "weighted_sum": weighted_sum,
  "advantage_sum": advantage_sum,
  "gdpo": gdpo,
  "lower_bound": lower_bound,
  "win_rate": win_rate,
  "base_and_bonus": base_and_bonus,
  "gated_sum": gated_sum,
  "lexicographic": lexicographic,
  "mastered_first": mastered_first,
  "tamed_sum": tamed_sum,
  "harmonic": harmonic,
  "ensemble": ensemble,
  "check_weights": check_weights,
  "pareto": pareto,
  "chain": chain,
  "tempered": tempered,
  "bonus_if_consistent": bonus_if_consistent,
  "tiers": tiers,
  "preference_sum": preference_sum,
  "log_sigmoid_sum": log_sigmoid_sum,
  "percentile_sum": percentile_sum,
  "trusted_sum": trusted_sum,
  "staged": staged,
  "prerequisite": prerequisite,
  "whole_and_parts": whole_and_parts,
  "routed": routed,
  "novel_sum": novel_sum,
  "viescore": viescore,
  "own_and_others": own_and_others,
  "discrepancy": discrepancy,
  "separate": separate,
}
# Gradients of rewards that stay apart into one.
COMBINERS: dict[str, Callable[..., Any]] = {
  "sum": sum_of_gradients,
  "marble": marble,
  "bilevel": bilevel,
}

__all__ = [
  "COMBINERS",
  "REGISTRY",
  "advantage_sum",
  "apart",
  "base_and_bonus",
  "bilevel",
  "bonus_if_consistent",
  "chain",
  "check_weights",
  "discrepancy",
  "duplicates",
  "ensemble",
  "failures",
  "gated_sum",
  "gdpo",
  "harmonic",
  "lexicographic",
  "log_sigmoid_sum",
  "lower_bound",
  "marble",
  "mastered_first",
  "min_norm",
  "novel_sum",
  "own_and_others",
  "pareto",
  "percentile_sum",
  "preference_sum",
  "prerequisite",
  "routed",
  "separate",
  "staged",
  "sum_of_gradients",
  "tamed_sum",
  "tempered",
  "tiers",
  "trusted_sum",
  "viescore",
  "weighted_sum",
  "whole_and_parts",
  "win_rate",
]
