"""Sampling times: from 1 (noise) down to 0 (data), shifted or not."""

from __future__ import annotations

import numpy as np

from jaxreward.errors import UserError


def timesteps(num_steps: int, shift: float = 1.0) -> np.ndarray:
  """Times t_0 = 1 > ... > t_T = 0, float32 [T + 1].

  A uniform grid u is shifted once: t = s u / (1 + (s - 1) u). (Applying the
  shift twice, as one widely used pipeline does, is another schedule.)

  Raises:
    UserError: fewer than one step or a shift that is not positive.
  """
  if num_steps < 1:
    raise UserError(f"rollout.num_steps={num_steps}: at least 1 is needed")
  if not shift > 0:
    raise UserError(f"rollout.shift={shift}: it must be positive")
  u = np.linspace(1.0, 0.0, num_steps + 1)
  return (shift * u / (1 + (shift - 1) * u)).astype(np.float32)


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
