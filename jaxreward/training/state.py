"""The training state: everything a resumed run needs besides its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxreward.numerics import Running
from jaxreward.training import ema
from jaxreward.types import Array, Params

RECENT = 256  # comparisons with a judge that agreement is measured on


@flax.struct.dataclass
class Pending:
  """What a player that learns of a judge waits with.

  Attributes:
    images: [L, B, ...], rows of the L newest iterations, whose labels are to come.
    agreed: float32 [RECENT], whether it ordered pairs as the judge did, the newest
      first; NaN where there is none yet.
  """

  images: Array
  agreed: Array


@flax.struct.dataclass
class Player:
  """State of a network that trains beside the policy.

  Attributes:
    params: its parameters.
    opt_state: its optimizer's.
    ema: average of params, which other networks read; None where they read params.
    updates: int32, its optimizer steps.
    mixture: None; see `TrainState`.
    pending: of a player that learns of a judge; else None.
    scale: of the scores so far, where they are normalized; else None.
  """

  params: Params
  opt_state: Any
  ema: Params | None
  updates: Array
  mixture: None = None
  pending: Pending | None = None
  scale: Running | None = None

  @property
  def averaged(self) -> Params:
    """The average, or the parameters where none is kept."""
    return self.params if self.ema is None else self.ema


@flax.struct.dataclass
class Reference:
  """A network that follows the trained one.

  Attributes:
    params: its parameters.
    age: int32, iterations since it was last refreshed.
    bank: earlier copies of the trained network, of a rule that draws among them.
  """

  params: Params
  age: Array
  bank: tuple[Params, ...] = ()


@flax.struct.dataclass
class TrainState:
  """State of a job.

  Attributes:
    step: int32, iterations done.
    updates: int32, optimizer steps done.
    params: the trained parameters: all of them, or the adapters.
    opt_state: the optimizer's.
    ema: average of params, for evaluation and export; None at a decay of 0.
    references: name -> network that follows the trained one; "old" draws the
      samples of off-policy objectives.
    stats: running statistics of advantages; None without.
    sampler_params: with overlapped rollouts, the parameters that draw the next
      iteration's samples, one update old; else None.
    mixture: float32 [K], weights of per-reward gradients; None for a single
      gradient.
    players: name -> network that trains beside the policy.
    weights: name -> float32, of the terms whose weights adapt.
  """

  step: Array
  updates: Array
  params: Params
  opt_state: Any
  ema: Params | None
  references: dict[str, Reference] = flax.struct.field(default_factory=dict)
  stats: Any = None
  sampler_params: Params | None = None
  mixture: Array | None = None
  players: dict[str, Player] = flax.struct.field(default_factory=dict)
  weights: dict[str, Array] = flax.struct.field(default_factory=dict)

  @property
  def averaged(self) -> Params:
    """The average, or the parameters where none is kept."""
    return self.params if self.ema is None else self.ema

  @property
  def old(self) -> Params | None:
    """The parameters that draw samples; None where the trained ones do."""
    reference = self.references.get("old")
    return None if reference is None else reference.params


def create(
  params: Params,
  optimizer,
  *,
  references: Mapping[str, Any] | None = None,
  overlap: bool = False,
  stats: Any = None,
  gradients: int = 0,
  players: dict[str, Player] | None = None,
  weights: dict[str, float] | None = None,
  average: bool = True,
) -> TrainState:
  """A state at step 0; averages are copies, so that it can be donated."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    updates=jnp.zeros((), jnp.int32),
    params=ema.init_ema(params),
    opt_state=optimizer.init(params),
    ema=ema.init_ema(params) if average else None,
    references={
      name: Reference(
        ema.init_ema(params),
        jnp.zeros((), jnp.int32),
        tuple(ema.init_ema(params) for _ in range(getattr(rule, "slots", 0))),
      )
      for name, rule in (references or {}).items()
    },
    sampler_params=ema.init_ema(params) if overlap else None,
    stats=stats,
    mixture=jnp.full(gradients, 1 / gradients, jnp.float32)
    if gradients
    else None,
    players=players or {},
    weights={k: jnp.float32(w) for k, w in (weights or {}).items()},
  )


def create_player(
  params: Params,
  optimizer,
  *,
  average: bool = True,
  pending: tuple[int, ...] | None = None,
  normalize: bool = False,
) -> Player:
  """A player at step 0.

  Args:
    params: its parameters.
    optimizer: its optimizer.
    average: whether an average of them is kept.
    pending: shape of `Pending.images`; None for a player without a judge.
    normalize: whether the scale of its scores is kept.
  """
  waiting = None
  if pending is not None:
    waiting = Pending(
      jnp.zeros(pending, jnp.float32), jnp.full(RECENT, jnp.nan, jnp.float32)
    )
  return Player(
    params=params,
    opt_state=optimizer.init(params),
    ema=ema.init_ema(params) if average else None,
    updates=jnp.zeros((), jnp.int32),
    pending=waiting,
    scale=Running.empty() if normalize else None,
  )


def held(after: TrainState, before: TrainState, is_held: Array) -> TrainState:
  """`after`, with the policy's part as in `before` where `is_held` is true."""
  names = (
    "updates",
    "params",
    "opt_state",
    "ema",
    "references",
    "sampler_params",
    "mixture",
    "weights",
  )
  keep = lambda old, new: jnp.where(is_held, old, new)
  same = {
    name: jax.tree.map(keep, getattr(before, name), getattr(after, name))
    for name in names
  }
  return dataclasses.replace(after, **same)


def abstract(state: TrainState) -> TrainState:
  """Shapes, types and shardings of a placed state, to restore into."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
