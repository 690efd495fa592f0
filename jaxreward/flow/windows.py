"""Where the window of noisy steps lies in each iteration.

move(iteration, key, size, num_steps, *, ...) -> the window's first step, int32.
Steps outside the window follow the ODE; moving windows exclude the last step,
since its Gaussian is too sharp to learn from.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

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


PACES = ("constant", "linear", "exponential")


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
  shrinks: bool = False,
  pace: str = "constant",
  least: int = 1,
  rate: float = 0.1,
  after: int = 13,
) -> Array:
  """A window that moves from noise to data and wraps around (MixGRPO).

  Li et al. 2025, https://arxiv.org/abs/2507.21802, the progressive strategy:
  it moves by `stride` steps every `every` iterations. At step i it stays for
    constant     every
    linear       max(least, floor((1 - i / last) every + i / last least))
    exponential  ceil(every exp(-rate max(i - after, 0)))
  iterations, the last two as the authors' "decay" and "exp_decay". With `shrinks` it
  goes on to the last step before `last`, as there, and steps beyond are masked; the
  authors' code fails where no step is left.

  Args:
    iteration: int32 scalar.
    key: not read.
    size: steps of the window.
    num_steps: T of the sampler.
    every: iterations between moves.
    stride: steps of a move.
    first: see `drawn`.
    last: see `drawn`.
    shrinks: whether the window goes on where less than `size` steps are left.
    pace: one of `PACES`.
    least: iterations at one place, of the pace "linear".
    rate: of the pace "exponential".
    after: the step from which on that pace is faster.

  Raises:
    UserError: an unknown pace, or a count that is not positive.
  """
  del key
  if not 0 <= rate < np.inf:
    raise UserError(
      f"config.rollout.window_move.rate={rate}: at least 0 is needed"
    )
  for name, value in (("every", every), ("stride", stride), ("least", least)):
    if not value >= 1:
      raise UserError(
        f"config.rollout.window_move.{name}={value}: at least 1 is needed"
      )
  places = _places(size, num_steps, first, last) + (size - 1) * shrinks
  at = first + stride * np.arange((places - 1) // stride + 1)
  progress = at / (last or num_steps - 1)
  counts = {
    "constant": lambda: np.full(len(at), every),
    "linear": lambda: np.maximum(
      least, (every * (1 - progress) + least * progress).astype(int)
    ),
    "exponential": lambda: np.maximum(
      np.ceil(every * np.exp(-rate * np.maximum(at - after, 0))), 1
    ),
  }
  if pace not in counts:
    raise UserError(
      f'config.rollout.window_move.pace="{pace}": it is one of {", ".join(PACES)}'
    )
  ends = np.cumsum(counts[pace]()).astype(int)
  turn = jnp.asarray(iteration) % ends[-1]
  return jnp.asarray(at)[jnp.searchsorted(ends, turn, side="right")]


def growing(
  iteration: Array | int,
  key: Array,
  size: int,
  num_steps: int,
  *,
  least: int = 1,
  stages: int = 100,
  last: int = 0,
) -> Array:
  """The last steps, more and more of them: from `least` to `size`.

  In stage n of N the interval has least + floor(n (size + 1 - least) / N) steps.
  B2-DiffuRL, https://arxiv.org/abs/2503.11240: 14 to 20 of 20 steps in 100 stages,
  read in the authors' code. Steps of the window beyond `last` draw no noise and
  are masked, so that one program serves every stage.

  Args:
    iteration: int32 scalar; a stage is an iteration.
    key: not read.
    size: steps of the longest interval.
    num_steps: T of the sampler.
    least: steps of the first interval.
    stages: N, after which the interval grows no more.
    last: see `drawn`.
  """
  del key
  if not 1 <= least <= size:
    raise UserError(
      f"config.rollout.window_move.least={least}: expected 1 to"
      f" config.rollout.window_size={size}"
    )
  if stages < 1:
    raise UserError(
      f"config.rollout.window_move.stages={stages}: at least 1 is needed"
    )
  _places(size, num_steps, 0, last)
  growth = jnp.asarray(iteration) * (size + 1 - least) // stages
  return (last or num_steps - 1) - jnp.minimum(least + growth, size)


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
  "growing": growing,
}
