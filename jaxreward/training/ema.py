"""Moving averages of parameters and how fast they follow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike, Params

# DiffusionNFT's old policy: (steps at 0, rise per step, cap).
NFT_OLD_SCHEDULES = {
  0: (0, 0.0, 0.0),
  1: (0, 0.001, 0.5),
  2: (75, 0.0075, 0.999),
}


def init_ema(params: Params) -> Params:
  """A copy of `params` in buffers of its own, so that both can be donated."""
  return jax.tree.map(lambda x: jnp.array(x, copy=True), params)


def update_ema(
  ema: Params, params: Params, decay: Float[ArrayLike, ""] | float
) -> Params:
  """decay * ema + (1 - decay) * params; exact at decay 0 and 1."""

  def mix(old, new):
    return (decay * old + (1 - decay) * new).astype(old.dtype)

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


def nft_old_decay(
  step: Int[ArrayLike, ""] | int, kind: int = 1
) -> Float[Array, ""]:
  """Decay of DiffusionNFT's old policy after iteration `step`.

  min((step - flat) * rate, cap), 0 before `flat`; the old policy becomes
  decay * old + (1 - decay) * trained. Kind 0 copies (on-policy), 1 rises by
  .001 to .5, 2 copies for 75 steps and then rises by .0075 to .999.
  """
  if kind not in NFT_OLD_SCHEDULES:
    raise UserError(f"the old policy's schedule is {kind}; use 0, 1 or 2.")
  flat, rate, cap = NFT_OLD_SCHEDULES[kind]
  n = jnp.asarray(step, jnp.float32)
  return jnp.clip((n - flat) * rate, 0.0, cap)
