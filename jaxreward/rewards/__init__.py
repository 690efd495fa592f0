"""Rewards: reward(images [P, G, H, W, C], prompts) -> scores [P, G].

A score that is not finite failed; it is masked and counted, never zero. A
user's own function needs no registration: a config names it by dotted path or
as "file.py:function".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.rewards.contract import declare
from jaxreward.rewards.learned import learned
from jaxreward.rewards.scoring import (
  Reward,
  build,
  contexts_of,
  device_scores,
  host_scores,
  jitted_scores,
  require_scores,
  score,
)
from jaxreward.rewards.verifiable import detector, strict

REGISTRY: dict[str, Callable[..., Any]] = {
  "detector": detector,
  "strict": strict,
  "learned": learned,
}

__all__ = [
  "REGISTRY",
  "Reward",
  "build",
  "contexts_of",
  "declare",
  "detector",
  "device_scores",
  "host_scores",
  "jitted_scores",
  "learned",
  "require_scores",
  "score",
  "strict",
]
