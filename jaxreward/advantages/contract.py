"""The advantage contract: (init, update) with a state, as in optax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import user_code
from jaxreward.errors import UserError
from jaxreward.methods import asks
from jaxreward.types import Array

# Arguments that `update` may have.
OFFERS = (
  "signal", "mask", "state", "scores", "prompt_ids", "steps", "key",
  "step_signal", "step_mask", "step_values", "step_rewards", "unweighted",
  "images", "stds", "places", "real", "jump_signal", "jump_mask",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes that a state may depend on.

  Attributes:
    prompts: P of an iteration.
    group: G.
    steps: T of the sampler.
    prompt_ids: () -> uint32 [N], all training prompts.
  """

  prompts: int
  group: int
  steps: int
  prompt_ids: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Advantage:
  """Scores into credit, with running statistics.

  Attributes:
    init: sizes -> the first state, a pytree of arrays; it is saved with the
      training state and replicated.
    update: takes some of `OFFERS` by name -> (advantage [P, G] or
      [P, G, T], new state). NaN excludes a sample from the loss; 0 keeps it,
      with a gradient of the regularizers only.
    gives: names of columns [P, G] beside the advantage, which objectives and
      regularizers may read; `update` then returns ((advantage, {name:
      column}), new state).
    maps: names of further columns, [P, G, h, w] of any resolution.
    levels: state -> float32 [T], noise levels s of the steps (std = s sqrt(dt)),
      which the sampler draws with; None for its own.
    settles: iterations until the levels stay, in which the policy has to wait.
  """

  init: Callable[[Sizes], Any]
  update: Callable[..., tuple[Any, Any]]
  gives: tuple[str, ...] = ()
  maps: tuple[str, ...] = ()
  levels: Callable[[Any], Array] | None = None
  settles: int = 0

  @property
  def names(self) -> tuple[str, ...]:
    """Arguments of `update`."""
    if isinstance(self.update, _Stateless):
      return self.update.names
    return asks(self.update)

  @property
  def needs_steps(self) -> bool:
    """Whether latents of every step have to be finished and scored."""
    return self.jumps or bool({"step_signal", "step_mask"} & set(self.names))

  @property
  def jumps(self) -> bool:
    """Whether one Euler step finishes them, in the place of the sampler's own."""
    return bool({"jump_signal", "jump_mask"} & set(self.names))


def as_advantage(fn: Callable[..., Any], field: str = "advantage") -> Advantage:
  """An advantage from a function whose options are bound.

  Args:
    fn: with arguments, it returns the advantage and has no state; without, it
      returns an `Advantage`.
    field: of the config, for errors.

  Raises:
    UserError: an unknown argument.
  """
  names = asks(fn)
  if not names:
    return _checked(user_code.call(f"config.{field}", fn), field)
  unknown = [name for name in names if name not in OFFERS or name == "state"]
  if unknown:
    raise UserError(
      f'config.{field}: it reads "{unknown[0]}"; a function of its own reads'
      f" {', '.join(n for n in OFFERS if n != 'state')}; one with a state"
      " returns an Advantage(init, update)"
    )
  return Advantage(lambda sizes: None, _Stateless(fn, names))


def _checked(advantage: Any, field: str) -> Advantage:
  """Checks the arguments of `update`, and fixes the types of the state."""
  if not isinstance(advantage, Advantage):
    raise UserError(
      f"config.{field}: a function that reads nothing returns an"
      f" Advantage(init, update), not a {type(advantage).__name__}"
    )
  unknown = [name for name in advantage.names if name not in OFFERS]
  if unknown:
    raise UserError(
      f'config.{field}: its update reads "{unknown[0]}"; there are'
      f" {', '.join(OFFERS)}"
    )
  fixed = lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype)
  init = lambda sizes: jax.tree.map(fixed, advantage.init(sizes))
  return dataclasses.replace(advantage, init=init)


@dataclasses.dataclass(frozen=True)
class _Stateless:
  fn: Callable[..., Any]
  names: tuple[str, ...]

  def __call__(self, *, state: Any = None, **arrays: Any) -> tuple[Array, Any]:
    return self.fn(**arrays), state


def credit(
  advantage: Advantage, offers: Mapping[str, Any], state: Any
) -> tuple[Array, Any]:
  """(advantage, new state) from the offered arrays, without columns.

  Raises:
    UserError: an advantage that is not [P, G] or [P, G, T].
  """
  value, _, state = with_columns(advantage, offers, state)
  return value, state


def with_columns(
  advantage: Advantage, offers: Mapping[str, Any], state: Any
) -> tuple[Array, dict[str, Array], Any]:
  """(advantage, columns by name, new state) from the offered arrays.

  Raises:
    UserError: an advantage that is not [P, G] or [P, G, T], or wrong columns.
  """
  offers = {**offers, "state": state}
  arguments = dict.fromkeys(advantage.names)
  if isinstance(advantage.update, _Stateless):
    arguments["state"] = None
  value, state = advantage.update(**{name: offers[name] for name in arguments})
  columns: dict[str, Array] = {}
  if advantage.gives or advantage.maps:
    value, columns = value
  shape = jnp.shape(offers["signal"])
  if value.shape[:2] != shape or value.ndim not in (2, 3):
    raise UserError(
      f"config.advantage.name: it returned shape {list(value.shape)} for"
      f" signals of shape [P, G] = {list(shape)}; expected [P, G] or [P, G, T]"
    )
  shapes = {name: jnp.shape(column) for name, column in columns.items()}
  ranks = dict.fromkeys(advantage.gives, 2) | dict.fromkeys(advantage.maps, 4)
  leads = {name: (len(x), x[:2]) for name, x in shapes.items()}
  if leads != {name: (rank, shape) for name, rank in ranks.items()}:
    raise UserError(
      f"config.advantage.name: it gives {', '.join(ranks)} of shape"
      f" [P, G] = {list(shape)}, maps with two axes more, and returned {shapes}"
    )
  value, columns = jax.lax.stop_gradient((value, columns))
  return value, columns, state
