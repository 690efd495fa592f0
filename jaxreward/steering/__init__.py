"""Alignment at sampling time: a reward steers, parameters stay fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.steering.methods import Steering, best_of_n, fk
from jaxreward.steering.particles import Particles, Score, Trace

REGISTRY: dict[str, Callable[..., Any]] = {"best_of_n": best_of_n, "fk": fk}

__all__ = [
  "REGISTRY",
  "Particles",
  "Score",
  "Steering",
  "Trace",
  "best_of_n",
  "fk",
]
