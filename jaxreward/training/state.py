"""The training state: everything a resumed run needs besides its config."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxreward.training import ema
from jaxreward.types import Array, Params


@flax.struct.dataclass
class Player:
  """State of a network that trains beside the policy.

  Attributes:
    params: its parameters.
    opt_state: its optimizer's.
    ema: average of params, which others read.
    updates: int32, its optimizer steps.
    mixture: None; see `TrainState`.
  """

  params: Params
  opt_state: Any
  ema: Params
  updates: Array
  mixture: None = None


@flax.struct.dataclass
class TrainState:
  """State of a job.

  Attributes:
    step: int32, iterations done.
    updates: int32, optimizer steps done.
    params: what is trained: all parameters, or the adapters.
    opt_state: the optimizer's.
    ema: average of params, for evaluation and export.
    old: the policy that draws samples for off-policy objectives; None where
      the trained parameters draw them.
    stats: running statistics of advantages; None without.
    behind: the parameters that draw the next iteration's samples, where those
      are drawn ahead: the ones of an update ago; else None.
    mixture: float32 [K], weights of the gradients of rewards that stay apart;
      None where there is one gradient.
    players: name -> network that trains beside the policy.
  """

  step: Array
  updates: Array
  params: Params
  opt_state: Any
  ema: Params
  old: Params | None = None
  stats: Any = None
  behind: Params | None = None
  mixture: Array | None = None
  players: dict[str, Player] = flax.struct.field(default_factory=dict)


def create(
  params: Params,
  optimizer,
  *,
  keep_old: bool = False,
  ahead: bool = False,
  stats: Any = None,
  gradients: int = 0,
  players: dict[str, Player] | None = None,
) -> TrainState:
  """A state at step 0; averages are copies, so that it can be donated."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    updates=jnp.zeros((), jnp.int32),
    params=ema.init_ema(params),
    opt_state=optimizer.init(params),
    ema=ema.init_ema(params),
    old=ema.init_ema(params) if keep_old else None,
    behind=ema.init_ema(params) if ahead else None,
    stats=stats,
    mixture=jnp.full(gradients, 1 / gradients) if gradients else None,
    players=players or {},
  )


def create_player(params: Params, optimizer) -> Player:
  """A player at step 0."""
  return Player(
    params=params,
    opt_state=optimizer.init(params),
    ema=ema.init_ema(params),
    updates=jnp.zeros((), jnp.int32),
  )


def abstract(state: TrainState) -> TrainState:
  """Shapes, types and shardings of a placed state, to restore into."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
