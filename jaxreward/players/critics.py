"""A critic: what a sample will earn, seen from its noisy latents."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.models.vision import critic as network
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player, Sizes
from jaxreward.types import Array, ArrayLike


def critic(*, width: int = 16, depth: int = 2, hidden: int = 128) -> Player:
  """V(x_t, t, words), fitted to the reward of the finished sample (AC-Flow).

  loss = E (V(x_t, t, c) - shaped)^2, with shaped = (r - mean r) / std r over the
  iteration and x_t the finished sample noised again at a random time. It gives
  "value" at the rows of an objective, and `step_values` to an advantage.
  Shaping and architecture are unverified: no code is public.

  Args:
    width: see `models.vision.critic`.
    depth: the same.
    hidden: the same.
  """
  net = network.Critic(width, depth, hidden)

  def init(key: Array, sizes: Sizes):
    x = jnp.zeros((1, *sizes.latent))
    words = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sizes.words)
    return net.init(key, x, jnp.ones(1), words)["params"]

  def value(arrays: Arrays) -> Array:
    x_t = arrays("x_t")
    t = jnp.broadcast_to(arrays("t"), x_t.shape[:1])
    values: Any = net.apply({"params": arrays.params}, x_t, t, arrays("words"))
    return values

  return Player(
    init, squared_error, offers={"value": value},
    reads=("x_t", "t", "shaped", "mask", "prompt_index"), gives=("value",),
    rules=(("(kernel|bias|scale|embedding)$", ()),),
  )  # fmt: skip


def squared_error(
  value: Float[ArrayLike, "B"],
  shaped: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Mean (value - shaped)^2, and that of a value of 0 as `baseline_error`."""
  value, shaped = jnp.asarray(value), jnp.asarray(shaped)
  error = jnp.square(value - shaped)
  return Mean.of(error, mask), {
    "baseline_error": Mean.of(jnp.square(shaped), mask)
  }
