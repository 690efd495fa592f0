"""A copy of the policy that learns what its samples are distributed like."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player
from jaxreward.types import Array, ArrayLike

Latents = Float[ArrayLike, "B *L"]


def fake_score() -> Player:
  """Flow matching on the policy's own samples: the "fake" teacher of distillation.

  It starts as the policy, and learns before it in every iteration. Its velocity at
  noised samples is their score, which objectives read as `v_NAME_again` and compare
  with the reference's. Yin et al. 2024 (DMD), https://arxiv.org/abs/2311.18828.
  """

  def velocity(arrays: Arrays) -> Array:
    return arrays.network().velocity(
      arrays("x_t"), arrays("t"), arrays("prompt_index")
    )

  return Player(
    lambda key, sizes: {}, matching, offers={"fake_velocity": velocity},
    reads=("x_t", "t", "noise", "x0", "mask", "prompt_index"), copies=True,
    leads=True,
  )  # fmt: skip


def matching(
  fake_velocity: Latents,
  noise: Latents,
  x0: Latents,
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Mean |v - (eps - x0)|^2 over elements, per row."""
  error = jnp.square(jnp.asarray(fake_velocity) - (jnp.asarray(noise) - x0))
  return Mean.of(error.reshape(len(error), -1).mean(1), mask), {}
