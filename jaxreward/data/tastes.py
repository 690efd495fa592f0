"""Users with planted tastes, to test models that tell users apart."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.data.preferences import Preferences
from jaxreward.types import Array, ArrayLike

WARMTH = 12.0  # slope in mean red less mean blue


def warmth(colour: Float[ArrayLike, "*B 3"]) -> Float[Array, "*B"]:
  """In [0, 1]: how much redder than bluer the mean colour of an image is."""
  colour = jnp.asarray(colour)
  return jax.nn.sigmoid(WARMTH * (colour[..., 0] - colour[..., 2]))


def rating(
  score: Float[ArrayLike, "Q N"],
  aspect: Float[ArrayLike, "Q N"],
  user: ArrayLike,
  weight: float,
) -> Float[Array, "Q N"]:
  """(1 - w) score + w aspect, where odd users want little of the aspect."""
  odd = (jnp.asarray(user) % 2 == 1)[:, None]
  liked = jnp.where(odd, 1 - jnp.asarray(aspect), aspect)
  return (1 - weight) * jnp.asarray(score) + weight * liked


def planted(
  rows: Preferences, users: int, weight: float, seed: int
) -> Preferences:
  """The rows as labeled by users of opposite taste in the last aspect.

  Args:
    rows: Q rows with aspects.
    users: U; each labels as many rows as the others, by turns of a shuffle.
    weight: w, of the taste against the common score.
    seed: of the shuffle.
  """
  count = len(np.asarray(rows.category))
  user = np.random.default_rng([seed, users]).permutation(count) % users
  aspect = jnp.asarray(rows.aspects)[..., -1]
  return dataclasses.replace(
    rows,
    user=jnp.asarray(user, jnp.int32),
    users=tuple(f"user {i}" for i in range(users)),
    score=rating(rows.score, aspect, user, weight),
  )
