"""Reward models: a backbone and a head, and preference losses.

A loss is a function of arrays that it requests by name (`offers`), such as
`loss(scores [..., 2], label_prob, mask, *, ...) -> Mean`; the listwise one
takes scores [..., N], best first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.reward_models.aspect_heads import (
  aspects,
  beside_reference,
  experts,
  outcomes,
  stages,
)
from jaxreward.reward_models.backbones import (
  clip_towers,
  scenes,
  siglip_towers,
)
from jaxreward.reward_models.contract import (
  Backbone,
  Head,
  Public,
  RewardModel,
  reads,
)
from jaxreward.reward_models.gaussian_losses import (
  concordant_policy,
  contrast_policy,
  expected_bradley_terry,
  fidelity,
  rank_policy,
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
  ellipsoid,
  gaussian,
  goal,
  ordinal,
  scalar,
  similarity,
  thresholds,
)
from jaxreward.reward_models.offers import (
  ANSWERS,
  ASPECTS,
  RATED,
  names,
  offers,
)
from jaxreward.reward_models.preference_losses import (
  bradley_terry,
  focal,
  hinge,
  plackett_luce,
  rao_kupper,
  variational,
)
from jaxreward.reward_models.row_losses import (
  aspect_answers,
  aspect_ratings_and_order,
  binary,
  contrastive,
  four_outcomes,
  hinge_matching,
  mixed_experts,
  regression,
  same_policy,
  stage_and_progress,
)
from jaxreward.reward_models.state_heads import (
  cross,
  layered,
  pooled,
  progressive,
)
from jaxreward.reward_models.stitching import stitched
from jaxreward.reward_models.towers import (
  blip_towers,
  dino_tower,
  scene_trunk,
  trunk_of,
)
from jaxreward.reward_models.user_heads import ideal_point, latent, personal
from jaxreward.reward_models.vlm_towers import qwen_vl_towers

BACKBONES: dict[str, Callable[..., Backbone]] = {
  "scenes": scenes,
  "clip": clip_towers,
  "siglip": siglip_towers,
  "dino": dino_tower,
  "blip": blip_towers,
  "policy": scene_trunk,
  "stitched": stitched,
  "qwen_vl": qwen_vl_towers,
}
OF_WORDS = (
  "scenes",
  "policy",
  "stitched",
)  # those that read the word ids of a task
HEADS: dict[str, Callable[..., Head]] = {
  "scalar": scalar,
  "gaussian": gaussian,
  "ellipsoid": ellipsoid,
  "similarity": similarity,
  "goal": goal,
  "ordinal": ordinal,
  "thresholds": thresholds,
  "among": among,
  "aspects": aspects,
  "experts": experts,
  "stages": stages,
  "outcomes": outcomes,
  "beside_reference": beside_reference,
  "ideal_point": ideal_point,
  "personal": personal,
  "latent": latent,
  "cross": cross,
  "layered": layered,
  "progressive": progressive,
  "pooled": pooled,
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
  "focal": focal,
  "fidelity": fidelity,
  "regression": regression,
  "binary": binary,
  "aspect_ratings_and_order": aspect_ratings_and_order,
  "aspect_answers": aspect_answers,
  "mixed_experts": mixed_experts,
  "stage_and_progress": stage_and_progress,
  "four_outcomes": four_outcomes,
  "same_policy": same_policy,
  "hinge_matching": hinge_matching,
  "contrastive": contrastive,
  "contrast_policy": contrast_policy,
  "rank_policy": rank_policy,
  "concordant_policy": concordant_policy,
  "variational": variational,
}
OF_ORDER = ("best_of_row", "plackett_luce")  # of ratings, their order alone
LISTWISE: dict[str, Callable[..., Any]] = {"plackett_luce": plackett_luce}

__all__ = [
  "ANSWERS",
  "ASPECTS",
  "BACKBONES",
  "HEADS",
  "LISTWISE",
  "OF_ORDER",
  "OF_WORDS",
  "RATED",
  "REGISTRY",
  "Backbone",
  "Head",
  "Public",
  "RewardModel",
  "among",
  "aspect_answers",
  "aspect_ratings_and_order",
  "aspects",
  "beside_reference",
  "best_of_row",
  "binary",
  "blip_towers",
  "bradley_terry",
  "clip_towers",
  "concordant_policy",
  "contrast_policy",
  "contrastive",
  "corn",
  "cross",
  "dino_tower",
  "ellipsoid",
  "expected_bradley_terry",
  "experts",
  "fidelity",
  "focal",
  "four_outcomes",
  "gaussian",
  "goal",
  "hinge",
  "hinge_matching",
  "ideal_point",
  "latent",
  "layered",
  "mixed_experts",
  "names",
  "offers",
  "ordinal",
  "ordinal_pairs",
  "outcomes",
  "personal",
  "plackett_luce",
  "pooled",
  "progressive",
  "qwen_vl_towers",
  "rank_policy",
  "ranked_plackett_luce",
  "rao_kupper",
  "reads",
  "regression",
  "same_policy",
  "scalar",
  "scaled_bradley_terry",
  "scene_trunk",
  "scenes",
  "siglip_towers",
  "similarity",
  "solireward",
  "stage_and_progress",
  "stages",
  "thresholds",
  "thurstone",
  "trunk_of",
  "variational",
]
