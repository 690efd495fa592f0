"""Where the window of noisy steps lies in each iteration.

move(iteration, key, size, num_steps, *, ...) -> the window's first step, int32.
Steps outside the window follow the ODE; moving windows exclude the last step,
since its Gaussian is too sharp to learn from.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.types import Array


def drawn(
  iteration: Array | int,
  key: Array,
  size: int,
  num_steps: int,
  *,
  first: int = 0,
  last: int = 0,
) -> Array:
  """A window drawn uniformly over all positions in every iteration.

  As in Flow-GRPO's fast recipes, with windows of 2 or 3 steps in the first
  half. The authors' pipelines draw per call; that of Qwen-Image seeds the draw
  with the process index, so that each process keeps one window, which is not
  followed here.

  Args:
    iteration: int32 scalar; `key` is folded with it already.
    key: scalar key.
    size: steps of the window.
    num_steps: T of the sampler.
    first: the earliest step it may hold.
    last: the step before which it ends; 0 for T - 1.
  """
  del iteration
  places = _places(size, num_steps, first, last)
  return first + jax.random.randint(key, (), 0, places)


def sliding(
  iteration: Array | int,
  key: Array,
  size: int,
  num_steps: int,
  *,
  every: int = 25,
  stride: int = 1,
  first: int = 0,
  last: int = 0,
) -> Array:
  """A window that moves from noise to data and wraps around (MixGRPO).

  Li et al. 2025, https://arxiv.org/abs/2507.21802, the progressive strategy:
  it moves by `stride` steps every `every` iterations.

  Args:
    iteration: int32 scalar.
    key: not read.
    size: steps of the window.
    num_steps: T of the sampler.
    every: iterations between moves.
    stride: steps of a move.
    first: see `drawn`.
    last: see `drawn`.
  """
  del key
  for name, value in (("every", every), ("stride", stride)):
    if not value >= 1:
      raise UserError(
        f"config.rollout.window_move.{name}={value}: at least 1 is needed"
      )
  turns = (_places(size, num_steps, first, last) - 1) // stride + 1
  return first + stride * (jnp.asarray(iteration) // every % turns)


def _places(size: int, num_steps: int, first: int, last: int) -> int:
  """How many windows lie between two steps.

  Raises:
    UserError: none does.
  """
  end = last or num_steps - 1
  if not (0 <= first and end <= num_steps and first + size <= end):
    raise UserError(
      f"config.rollout.window_move.first={first} and"
      f" config.rollout.window_move.last={last}: no window of {size} steps"
      f" (config.rollout.window_size) lies between steps {first} and {end} of"
      f" {num_steps}"
    )
  return end - size - first + 1


REGISTRY: dict[str, Callable[..., Array]] = {
  "drawn": drawn,
  "sliding": sliding,
}
