"""Networks that train beside the policy: critics, discriminators and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.players.adversary import discriminator, hinge
from jaxreward.players.contract import ROWS, Arrays, Player, Sizes
from jaxreward.players.critics import (
  critic,
  imitated_preference,
  latent_proxy,
  squared_error,
)

PLAYERS: dict[str, Callable[..., Any]] = {
  "critic": critic,
  "discriminator": discriminator,
  "latent_proxy": latent_proxy,
}

__all__ = [
  "PLAYERS",
  "ROWS",
  "Arrays",
  "Player",
  "Sizes",
  "critic",
  "discriminator",
  "hinge",
  "imitated_preference",
  "latent_proxy",
  "squared_error",
]
