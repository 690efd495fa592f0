"""Exponential moving averages of parameters and their decay schedules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike, Params


def init_ema(params: Params) -> Params:
  """A copy of `params` in separate buffers, so that both can be donated."""
  return jax.tree.map(lambda x: jnp.array(x, copy=True), params)


def update_ema(
  ema: Params, params: Params, decay: Float[ArrayLike, ""] | float
) -> Params:
  """decay * ema + (1 - decay) * params; exact at decay 0 and 1."""

  def mix(average, value):
    return (decay * average + (1 - decay) * value).astype(average.dtype)

  return jax.tree.map(mix, ema, params)


def ema_decay(
  step: Int[ArrayLike, ""] | int,
  *,
  decay: float = 0.9,
  schedule: str = "constant",
) -> Float[Array, ""]:
  """Decay of the n-th update, n = 0, 1, ...

  "constant" is `decay`; "warmup" is min(decay, (1 + n) / (10 + n)), so that
  the first updates forget the start.
  """
  if schedule == "constant":
    return jnp.float32(decay)
  if schedule == "warmup":
    n = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))
  raise UserError(
    f'ema.schedule is "{schedule}"; it must be "constant" or "warmup".'
  )
