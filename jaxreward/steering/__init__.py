"""Alignment at sampling time: a reward steers, parameters stay fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.steering.judged import potential, stepwise
from jaxreward.steering.methods import Steering, best_of_n, fk
from jaxreward.steering.noise import carinox, reno
from jaxreward.steering.particles import Particles, Score, Trace
from jaxreward.steering.pruning import pruned
from jaxreward.steering.search import lookahead_beams
from jaxreward.steering.tree import tree_search

REGISTRY: dict[str, Callable[..., Any]] = {
  "best_of_n": best_of_n,
  "fk": fk,
  "pruned": pruned,
  "stepwise": stepwise,
  "potential": potential,
  "lookahead_beams": lookahead_beams,
  "tree": tree_search,
  "reno": reno,
  "carinox": carinox,
}

__all__ = [
  "REGISTRY",
  "Particles",
  "Score",
  "Steering",
  "Trace",
  "best_of_n",
  "carinox",
  "fk",
  "lookahead_beams",
  "potential",
  "pruned",
  "reno",
  "stepwise",
  "tree_search",
]
