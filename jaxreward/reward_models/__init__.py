"""Reward models: a backbone and a head, and preference losses.

A loss is a function of arrays that it requests by name (`offers`), such as
`loss(scores [..., 2], label_prob, mask, *, ...) -> Mean`; the listwise one
takes scores [..., N], best first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.reward_models.backbones import (
  clip_towers,
  scenes,
  siglip_towers,
)
from jaxreward.reward_models.contract import (
  Backbone,
  Head,
  RewardModel,
  reads,
)
from jaxreward.reward_models.gaussian_losses import (
  expected_bradley_terry,
  thurstone,
)
from jaxreward.reward_models.graded_losses import (
  best_of_row,
  corn,
  ordinal_pairs,
  ranked_plackett_luce,
  scaled_bradley_terry,
  solireward,
)
from jaxreward.reward_models.heads import (
  among,
  gaussian,
  ordinal,
  scalar,
  similarity,
  thresholds,
)
from jaxreward.reward_models.offers import RATED, names, offers
from jaxreward.reward_models.preference_losses import (
  bradley_terry,
  hinge,
  plackett_luce,
  rao_kupper,
)

BACKBONES: dict[str, Callable[..., Backbone]] = {
  "scenes": scenes,
  "clip": clip_towers,
  "siglip": siglip_towers,
}
HEADS: dict[str, Callable[..., Head]] = {
  "scalar": scalar,
  "gaussian": gaussian,
  "similarity": similarity,
  "ordinal": ordinal,
  "thresholds": thresholds,
  "among": among,
}
REGISTRY: dict[str, Callable[..., Any]] = {
  "bradley_terry": bradley_terry,
  "rao_kupper": rao_kupper,
  "hinge": hinge,
  "thurstone": thurstone,
  "expected_bradley_terry": expected_bradley_terry,
  "scaled_bradley_terry": scaled_bradley_terry,
  "solireward": solireward,
  "best_of_row": best_of_row,
  "plackett_luce": ranked_plackett_luce,
  "ordinal_pairs": ordinal_pairs,
  "corn": corn,
}
LISTWISE: dict[str, Callable[..., Any]] = {"plackett_luce": plackett_luce}

__all__ = [
  "BACKBONES",
  "HEADS",
  "LISTWISE",
  "RATED",
  "REGISTRY",
  "Backbone",
  "Head",
  "RewardModel",
  "among",
  "best_of_row",
  "bradley_terry",
  "clip_towers",
  "corn",
  "expected_bradley_terry",
  "gaussian",
  "hinge",
  "names",
  "offers",
  "ordinal",
  "ordinal_pairs",
  "plackett_luce",
  "ranked_plackett_luce",
  "rao_kupper",
  "reads",
  "scalar",
  "scaled_bradley_terry",
  "scenes",
  "siglip_towers",
  "similarity",
  "solireward",
  "thresholds",
  "thurstone",
]
