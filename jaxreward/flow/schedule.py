"""Sampling times: from 1 (noise) down to 0 (data), shifted or not."""

from __future__ import annotations

import math

import numpy as np

from jaxreward.errors import UserError, nearest

GRIDS = ("uniform", "trained")


def timesteps(
  num_steps: int,
  shift: float = 1.0,
  *,
  grid: str = "uniform",
  terminal: float = 0.0,
) -> np.ndarray:
  """Times t_0 = 1 > ... > t_T = 0, float32 [T + 1].

  A grid u is shifted: t = s u / (1 + (s - 1) u). The uniform grid k / T is that
  of the pipelines of FLUX and Qwen-Image. The grid "trained" runs from 1 to the
  last of 1000 training times, which is shifted already, and is shifted again:
  that is `FlowMatchEulerDiscreteScheduler` of diffusers with its own grid, as
  the pipeline of SD3 uses it.

  Args:
    num_steps: T.
    shift: s; see `dynamic_shift` for the shift that grows with the picture.
    grid: "uniform" or "trained".
    terminal: if not 0, noise of t_(T-1), to which the times are stretched
      (0.02 for Qwen-Image).

  Raises:
    UserError: too few steps, a shift that is not positive, an unknown grid.
  """
  if num_steps < 1 + bool(terminal):
    raise UserError(
      f"rollout.num_steps={num_steps}: at least {1 + bool(terminal)} needed"
    )
  if not shift > 0:
    raise UserError(f"rollout.shift={shift}: it must be positive")
  if grid not in GRIDS:
    raise UserError(f'rollout.grid="{grid}" is not known{nearest(grid, GRIDS)}')
  move = lambda u: shift * u / (1 + (shift - 1) * u)
  if grid == "uniform":
    u = np.linspace(1.0, 0.0, num_steps + 1)[:-1]
  else:
    u = np.linspace(1.0, move(1 / 1000), num_steps)
  t = move(u)
  if terminal:
    t = 1 - (1 - t) * (1 - terminal) / (1 - t[-1])
  return np.append(t, 0.0).astype(np.float32)


def dynamic_shift(
  tokens: int,
  *,
  least: float = 0.5,
  most: float = 1.15,
  least_tokens: int = 256,
  most_tokens: int = 4096,
) -> float:
  """The shift of a picture of that many tokens, exp(mu), mu linear in them.

  The defaults are those of FLUX; Qwen-Image has `most=0.9` at
  `most_tokens=8192`.

  Args:
    tokens: of the picture, for FLUX a 256th of its pixels.
    least: mu at `least_tokens`.
    most: mu at `most_tokens`.
    least_tokens: see there.
    most_tokens: see there.
  """
  slope = (most - least) / (most_tokens - least_tokens)
  return math.exp(least + slope * (tokens - least_tokens))


def window_mask(num_steps: int, start: int, size: int) -> np.ndarray:
  """bool [T], true for the steps start ... start + size - 1.

  Raises:
    UserError: a window that does not lie inside the schedule.
  """
  if not (0 <= start and size >= 1 and start + size <= num_steps):
    raise UserError(
      f"a window of {size} steps from step {start} does not fit into"
      f" {num_steps} steps"
    )
  steps = np.arange(num_steps)
  return (steps >= start) & (steps < start + size)
