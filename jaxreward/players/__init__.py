"""Networks that train beside the policy: critics, discriminators and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.players.adversary import discriminator, hinge
from jaxreward.players.artifacts import artifact_detector, spoilt, told_apart
from jaxreward.players.contract import (
  JUDGED_ROWS,
  ROWS,
  Arrays,
  Player,
  Sizes,
)
from jaxreward.players.critics import (
  critic,
  imitated_preference,
  latent_proxy,
  squared_error,
)
from jaxreward.players.detectors import (
  above,
  expert_above,
  pooled,
  reality,
  soft_cross_entropy,
)
from jaxreward.players.directions import bias_direction, bias_gain
from jaxreward.players.flows import deviation, matched, patch_flow, squared
from jaxreward.players.process import (
  adds_up,
  features,
  implied_outcome,
  ordered,
  process_reward,
  return_parts,
)
from jaxreward.players.scores import (
  fake_score,
  preference_pull,
  preferred_matching,
  preferred_score,
)
from jaxreward.players.students import ranked, student

PLAYERS: dict[str, Callable[..., Any]] = {
  "critic": critic,
  "discriminator": discriminator,
  "latent_proxy": latent_proxy,
  "fake_score": fake_score,
  "preferred_score": preferred_score,
  "process_reward": process_reward,
  "return_parts": return_parts,
  "bias_direction": bias_direction,
  "artifact_detector": artifact_detector,
  "reality": reality,
  "expert_above": expert_above,
  "patch_flow": patch_flow,
  "student": student,
}

__all__ = [
  "JUDGED_ROWS",
  "PLAYERS",
  "ROWS",
  "Arrays",
  "Player",
  "Sizes",
  "above",
  "adds_up",
  "artifact_detector",
  "bias_direction",
  "bias_gain",
  "critic",
  "deviation",
  "discriminator",
  "expert_above",
  "fake_score",
  "features",
  "hinge",
  "imitated_preference",
  "implied_outcome",
  "latent_proxy",
  "matched",
  "ordered",
  "patch_flow",
  "pooled",
  "preference_pull",
  "preferred_matching",
  "preferred_score",
  "process_reward",
  "ranked",
  "reality",
  "return_parts",
  "soft_cross_entropy",
  "spoilt",
  "squared",
  "squared_error",
  "student",
  "told_apart",
]
