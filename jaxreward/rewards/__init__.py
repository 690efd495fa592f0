"""Rewards: reward(images [P, G, H, W, C], prompts) -> scores [P, G].

A reward with uncertainty or per-step scores returns `Scores(value, std,
per_step)`. A score that is not finite failed; it is masked and counted, never
zero. A user's own function needs no registration: a config names it by dotted
path or as "file.py:function".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.rewards import (
  alignment,
  compression,
  consistency,
  fidelity,
  identity,
  image_reward,
  implicit,
  judges,
  motion,
  objects,
  ocr,
  quality,
  remote,
)
from jaxreward.rewards.contract import Loaded, Scores, declare, supplied
from jaxreward.rewards.learned import learned
from jaxreward.rewards.scoring import (
  Reward,
  RowWeight,
  applies_to,
  build,
  contexts_of,
  device_scores,
  for_host,
  host_arrays,
  host_scores,
  jitted_scores,
  mask_inapplicable,
  places_of,
  probe_gradients,
  probe_images,
  require_scores,
  score,
  scores_of_host,
  stds_of,
  steps_of,
  values_of,
)

REGISTRY: dict[str, Callable[..., Any]] = {
  "learned": learned,
  "implicit": implicit.implicit,
  "density_ratio": implicit.density_ratio,
  "clip_score": alignment.clip_score,
  "clip_score_hessel": alignment.clip_score_hessel,
  "clip_goal": alignment.clip_goal,
  "pick_score": alignment.pick_score,
  "hps_v2": alignment.hps_v2,
  "siglip_score": alignment.siglip_score,
  "image_reward": image_reward.image_reward,
  "aesthetic": quality.aesthetic,
  "smooth": quality.smooth,
  "psnr": fidelity.psnr_reward,
  "ssim": fidelity.ssim_reward,
  "ms_ssim": fidelity.ms_ssim_reward,
  "lpips": fidelity.lpips,
  "dists": fidelity.dists,
  "condition_cycle": fidelity.condition_cycle,
  "rendered_equivalence": fidelity.rendered_equivalence,
  "image_similarity": consistency.image_similarity,
  "feature_distance": consistency.feature_distance,
  "cross_image": consistency.cross_image,
  "edit": consistency.edit,
  "background": consistency.background,
  "attributes_kept": consistency.attributes_kept,
  "identity": identity.identity,
  "executable": motion.executable,
  "jpeg_compressibility": compression.jpeg_compressibility,
  "jpeg_incompressibility": compression.jpeg_incompressibility,
  "ocr": ocr.ocr,
  "objects": objects.objects,
  "judge_pointwise": remote.judge_pointwise,
  "judge_pairwise": remote.judge_pairwise,
  "judge_checklist": remote.judge_checklist,
  "vlm_pointwise": judges.vlm_pointwise,
  "vlm_pairwise": judges.vlm_pairwise,
  "prompt_echo": judges.prompt_echo,
}

__all__ = [
  "REGISTRY",
  "Loaded",
  "Reward",
  "RowWeight",
  "Scores",
  "applies_to",
  "build",
  "contexts_of",
  "declare",
  "device_scores",
  "for_host",
  "host_arrays",
  "host_scores",
  "jitted_scores",
  "learned",
  "mask_inapplicable",
  "places_of",
  "probe_gradients",
  "probe_images",
  "require_scores",
  "score",
  "scores_of_host",
  "stds_of",
  "steps_of",
  "supplied",
  "values_of",
]
