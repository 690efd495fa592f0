"""Policy losses: objective(arrays, mask, *, ...) -> (Mean, metrics)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.objectives.backprop import align_prop, refl
from jaxreward.objectives.confidence import (
  inpo,
  masked_dpo,
  single_dpo,
  smoothed_dpo,
)
from jaxreward.objectives.differences import d3po, prdp, rebel
from jaxreward.objectives.distillation import (
  continuous_matching,
  distribution_matching,
  salient_matching,
  score_implicit,
  surrogate_matching,
)
from jaxreward.objectives.groups import (
  consistent_dpo,
  crd,
  dgpo,
  grao,
  rank_dpo,
  seppo,
)
from jaxreward.objectives.likelihood_free import ac_flow, awm, diffusion_nft
from jaxreward.objectives.matching import (
  contrastive_matching,
  flow_matching,
  region_matching,
)
from jaxreward.objectives.policy_gradient import (
  flow_dppo,
  flow_grpo,
  grpo_guard,
  gspo,
)
from jaxreward.objectives.predictions import (
  consistency_proxy,
  consistency_reward,
  noised_reward,
  one_step_reward,
  reward_instruct,
  srpo,
  uncertain_reward,
)
from jaxreward.objectives.preference import (
  dynamic_dpo,
  flow_dpo,
  gap_dpo,
  hierarchical_dpo,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "flow_grpo": flow_grpo,
  "grpo_guard": grpo_guard,
  "flow_dppo": flow_dppo,
  "gspo": gspo,
  "d3po": d3po,
  "prdp": prdp,
  "rebel": rebel,
  "diffusion_nft": diffusion_nft,
  "awm": awm,
  "ac_flow": ac_flow,
  "flow_dpo": flow_dpo,
  "gap_dpo": gap_dpo,
  "dynamic_dpo": dynamic_dpo,
  "hierarchical_dpo": hierarchical_dpo,
  "smoothed_dpo": smoothed_dpo,
  "masked_dpo": masked_dpo,
  "single_dpo": single_dpo,
  "inpo": inpo,
  "dgpo": dgpo,
  "rank_dpo": rank_dpo,
  "crd": crd,
  "consistent_dpo": consistent_dpo,
  "seppo": seppo,
  "grao": grao,
  "align_prop": align_prop,
  "refl": refl,
  "srpo": srpo,
  "noised_reward": noised_reward,
  "consistency_reward": consistency_reward,
  "consistency_proxy": consistency_proxy,
  "uncertain_reward": uncertain_reward,
  "one_step_reward": one_step_reward,
  "reward_instruct": reward_instruct,
  "distribution_matching": distribution_matching,
  "salient_matching": salient_matching,
  "continuous_matching": continuous_matching,
  "score_implicit": score_implicit,
  "surrogate_matching": surrogate_matching,
  "flow_matching": flow_matching,
  "region_matching": region_matching,
  "contrastive_matching": contrastive_matching,
}

__all__ = [
  "REGISTRY",
  "ac_flow",
  "align_prop",
  "awm",
  "consistency_proxy",
  "consistency_reward",
  "consistent_dpo",
  "continuous_matching",
  "contrastive_matching",
  "crd",
  "d3po",
  "dgpo",
  "diffusion_nft",
  "distribution_matching",
  "dynamic_dpo",
  "flow_dpo",
  "flow_dppo",
  "flow_grpo",
  "flow_matching",
  "gap_dpo",
  "grao",
  "grpo_guard",
  "gspo",
  "hierarchical_dpo",
  "inpo",
  "masked_dpo",
  "noised_reward",
  "one_step_reward",
  "prdp",
  "rank_dpo",
  "rebel",
  "refl",
  "region_matching",
  "reward_instruct",
  "salient_matching",
  "score_implicit",
  "seppo",
  "single_dpo",
  "smoothed_dpo",
  "srpo",
  "surrogate_matching",
  "uncertain_reward",
]
