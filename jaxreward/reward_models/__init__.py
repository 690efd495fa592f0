"""Reward models: a backbone and a head, and losses of what people prefer.

A loss is a function of arrays that it asks for by name (`offers`), such as
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
from jaxreward.reward_models.heads import gaussian, scalar, similarity
from jaxreward.reward_models.offers import names, offers
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
}
REGISTRY: dict[str, Callable[..., Any]] = {
  "bradley_terry": bradley_terry,
  "rao_kupper": rao_kupper,
  "hinge": hinge,
  "thurstone": thurstone,
  "expected_bradley_terry": expected_bradley_terry,
}
LISTWISE: dict[str, Callable[..., Any]] = {"plackett_luce": plackett_luce}

__all__ = [
  "BACKBONES",
  "HEADS",
  "LISTWISE",
  "REGISTRY",
  "Backbone",
  "Head",
  "RewardModel",
  "bradley_terry",
  "clip_towers",
  "expected_bradley_terry",
  "gaussian",
  "hinge",
  "names",
  "offers",
  "plackett_luce",
  "rao_kupper",
  "reads",
  "scalar",
  "scenes",
  "siglip_towers",
  "similarity",
  "thurstone",
]
