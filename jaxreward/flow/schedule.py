"""Sampling times: from 1 (noise) down to 0 (data), shifted or not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from jaxreward.errors import UserError, nearest

GRIDS = ("uniform", "trained", "unipc")
_NEAR = 1e-6  # distance to 1 that UniPC keeps
_MOST = 20.0  # of mu; its exponential exceeds float32 precision


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
  the pipeline of SD3 uses it. The grid "unipc" is the first T of T + 1 equal
  parts from 1 to 1 / 1000, as `UniPCMultistepScheduler` has it for Wan.

  Args:
    num_steps: T.
    shift: s; see `dynamic_shift` for the shift that grows with the image.
    grid: one of `GRIDS`.
    terminal: if not 0, noise of t_(T-1), to which the times are stretched
      (0.02 for Qwen-Image).

  Raises:
    UserError: too few steps, an unknown grid, or a shift that makes times
      equal.
  """
  t = _times(num_steps, shift, grid, terminal).astype(np.float32)
  if not (np.diff(t) < 0).all():
    raise UserError(
      f"a shift of {shift:g} leaves {num_steps} steps no times that differ"
    )
  return t


def _times(
  num_steps: int, shift: float, grid: str, terminal: float
) -> np.ndarray:
  """`timesteps` in float64."""
  least = 1 + bool(terminal)
  if num_steps < least:
    limit = f" before a terminal of {terminal}" if terminal else ""
    raise UserError(
      f"{num_steps} steps, and at least {least} are needed{limit}"
    )
  if not shift > 0:
    raise UserError(f"a shift of {shift}: it must be positive")
  if grid not in GRIDS:
    raise UserError(f'the grid "{grid}" is not known{nearest(grid, GRIDS)}')
  move = lambda u: shift * u / (1 + (shift - 1) * u)
  if grid == "trained":
    u = np.linspace(1.0, move(1 / 1000), num_steps)
  else:
    end = 1 / 1000 if grid == "unipc" else 0.0
    u = np.linspace(1.0, end, num_steps + 1)[:-1]
  t = move(u)
  if terminal:
    t = 1 - (1 - t) * (1 - terminal) / (1 - t[-1])
  return np.append(t, 0.0)


def dynamic_shift(
  tokens: int,
  *,
  base_shift: float = 0.5,
  max_shift: float = 1.15,
  base_tokens: int = 256,
  max_tokens: int = 4096,
) -> float:
  """The shift exp(mu) of an image of that many tokens, mu linear in them.

  The defaults are those of FLUX; Qwen-Image has `max_shift=0.9` at
  `max_tokens=8192`.

  Args:
    tokens: of the image, for FLUX a 256th of its pixels.
    base_shift: mu at `base_tokens`.
    max_shift: mu at `max_tokens`.
    base_tokens: see `base_shift`.
    max_tokens: see `max_shift`.

  Raises:
    UserError: token counts that form no range, or a mu out of bounds.
  """
  if not base_tokens < max_tokens:
    raise UserError(
      f"rollout.schedule.base_tokens={base_tokens} is not less than"
      f" rollout.schedule.max_tokens={max_tokens}"
    )
  slope = (max_shift - base_shift) / (max_tokens - base_tokens)
  mu = base_shift + slope * (tokens - base_tokens)
  if not abs(mu) < _MOST:
    raise UserError(
      f"rollout.schedule: base_shift={base_shift} and max_shift={max_shift} give"
      f" {mu:g} at {tokens} tokens, and their exponential is the shift"
    )
  return math.exp(mu)


def flux2_shift(tokens: int, num_steps: int) -> float:
  """The shift exp(mu) of FLUX.2, whose mu was fitted to tokens and steps.

  Between 10 and 200 steps mu is linear in them, and beyond as well; above 4300 tokens
  it is that of 200 steps (https://github.com/black-forest-labs/flux2, sampling.py).

  Args:
    tokens: of the image, a 256th of its pixels.
    num_steps: T.
  """
  many = 0.00016927 * tokens + 0.45666666
  if tokens > 4300:
    return math.exp(many)
  few = 8.73809524e-05 * tokens + 1.89833333
  return math.exp(many + (few - many) * (200 - num_steps) / 190)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Times for any number of steps; see `timesteps` for the fields.

  Attributes:
    shift: s.
    grid: of the times before the shift.
    terminal: noise of the last time but one.
    tokens: if not 0, `flux2_shift` of as many multiplies the shift.
  """

  shift: float
  grid: str = "uniform"
  terminal: float = 0.0
  tokens: int = 0

  def shift_of(self, num_steps: int) -> float:
    """The shift of times that are so many steps."""
    if not self.tokens:
      return self.shift
    return self.shift * flux2_shift(self.tokens, num_steps)

  def times(self, num_steps: int) -> np.ndarray:
    """float32 [T + 1]."""
    shift = self.shift_of(num_steps)
    return timesteps(num_steps, shift, grid=self.grid, terminal=self.terminal)

  def network_times(self, num_steps: int) -> np.ndarray | None:
    """Times that the network is given, float32 [T]; None for `times`.

    `UniPCMultistepScheduler` counts in whole thousandths, rounded down, and
    starts just below 1: Wan is given 0.999 first. Schedulers of the other grids
    pass their times unchanged.
    """
    if self.grid != "unipc":
      return None
    t = _times(num_steps, self.shift, self.grid, self.terminal)[:-1]
    t = np.where(np.abs(t - 1) < _NEAR, t - _NEAR, t)
    return (np.trunc(t * 1000) / 1000).astype(np.float32)


def constant(
  shift: float, latent_shape: tuple[int, ...], *, grid: str = "uniform"
) -> Schedule:
  """The same shift for every size.

  Args:
    shift: `rollout.shift`.
    latent_shape: not read.
    grid: "uniform"; "trained" (SD3) or "unipc" (Wan).
  """
  del latent_shape
  if grid not in GRIDS:
    raise UserError(
      f'rollout.schedule.grid="{grid}" is not known{nearest(grid, GRIDS)};'
      f" known: {', '.join(GRIDS)}"
    )
  return Schedule(shift, grid)


def dynamic(
  shift: float,
  latent_shape: tuple[int, ...],
  *,
  base_shift: float = 0.5,
  max_shift: float = 1.15,
  base_tokens: int = 256,
  max_tokens: int = 4096,
  terminal: float = 0.0,
) -> Schedule:
  """`dynamic_shift` of the latents' 2 x 2 squares, times `rollout.shift`.

  Shifts multiply: with a `rollout.shift` of 1 this is what the pipelines of
  FLUX and, with a terminal of 0.02, of Qwen-Image do.
  """
  if not 0 <= terminal < 1:
    raise UserError(
      f"rollout.schedule.terminal={terminal}: expected at least 0 and less than"
      " 1"
    )
  size_shift = dynamic_shift(
    math.prod(latent_shape[:-1]) // 4,
    base_shift=base_shift, max_shift=max_shift,
    base_tokens=base_tokens, max_tokens=max_tokens,
  )  # fmt: skip
  return Schedule(shift * size_shift, terminal=terminal)


def flux2(shift: float, latent_shape: tuple[int, ...]) -> Schedule:
  """`flux2_shift` of the latents' pixels, times `rollout.shift`."""
  return Schedule(shift, tokens=math.prod(latent_shape[:-1]))


REGISTRY: dict[str, Callable[..., Schedule]] = {
  "constant": constant,
  "dynamic": dynamic,
  "flux2": flux2,
}


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
