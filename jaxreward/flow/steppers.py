"""One denoising step as a Gaussian: mean and standard deviation.

A step goes from t to t' < t with delta = t - t' > 0. Every stochastic sampler
here has a mean that is affine in (x_t, v), so a step is four numbers:

  mean = c_x x_t + c_v v,   x_{t'} = mean + std xi,   xi ~ N(0, I).

The coefficients depend on times alone. They are computed once, in float64 on
the host, and fed to the scan: rollout and update read the same constants.

Flow-SDE (Flow-GRPO, Liu et al., 2025, eq. 9) and Dance-SDE (DanceGRPO, Xue et
al., 2025) share the mean
  x - delta [v + s^2 / (2 t) (x + (1 - t) v)],   std = s sqrt(delta),
with s = a sqrt(t / (1 - t)) and s = eta; the published code of Flow-GRPO for Wan
has s = a t_1 t. CPS (FlowCPS, Wang and Yu, 2025) puts
  (1 - t') x0_hat + t' |cos(a pi / 2)| x1_hat,    std = t' sin(a pi / 2),
which keeps the total noise at t' exactly.

`heun`, `unipc` and `dpmpp_2m` are deterministic multistep solvers (`multistep`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.flow import multistep, path
from jaxreward.types import Array, ArrayLike, Cond

LOG_2PI = float(np.log(2 * np.pi))


@flax.struct.dataclass
class StepTable:
  """Constants of T steps, each float32 [T].

  Attributes:
    t: time before the step.
    t_next: time after it.
    c_x: factor of x_t in the mean.
    c_v: factor of the velocity in the mean.
    std: standard deviation; 0 for a deterministic step.
    diffusion: s, with std = s sqrt(delta) (for CPS std / sqrt(delta)).
    log_scale: 1 where log-probabilities carry variance and constants; 0 where
      published code drops them (CPS).
    network_t: time that the network is given, where it is not t itself
      (`schedule.Schedule.network_times`); None where it is.
    solver: of a multistep solver, whose steps are not the mean above.
    end_t: time that the network is given at the end of a step of Heun's, which
      averages the velocities at both ends; None for other samplers.
  """

  t: ArrayLike
  t_next: ArrayLike
  c_x: ArrayLike
  c_v: ArrayLike
  std: ArrayLike
  diffusion: ArrayLike
  log_scale: ArrayLike
  network_t: ArrayLike | None = None
  solver: multistep.Solver | None = None
  end_t: ArrayLike | None = None


def at_end(step: StepTable) -> StepTable:
  """A step's constants for the velocity at its end (`heun`)."""
  network_t = None if step.network_t is None else step.end_t
  return dataclasses.replace(step, t=step.t_next, network_t=network_t)


def network_time(
  step: StepTable, rows: int, cond: Cond
) -> tuple[Float[Array, "{rows}"], Cond]:
  """(time [B] that the network is given, its conditioning) at a step.

  Where that is not the step's own time, the latter stands in the conditioning
  as "sigma" [B], for networks that compute with it.
  """
  if step.network_t is None:
    return jnp.full((rows,), step.t), cond
  if isinstance(cond, dict):
    cond = cond | {"sigma": jnp.full((rows,), step.t)}
  return jnp.full((rows,), step.network_t), cond


def _ode(t, t_next):
  delta = t - t_next
  return np.ones_like(t), -delta, np.zeros_like(t)


def _score_sde(t, t_next, s):
  delta = t - t_next
  c_x = 1 - s**2 * delta / (2 * t)
  c_v = -delta * (1 + s**2 * (1 - t) / (2 * t))
  return c_x, c_v, s * delta**0.5


def _cps(t, t_next, noise_level):
  keep = t_next * np.abs(np.cos(noise_level * np.pi / 2))
  # x0_hat = x - t v and x1_hat = x + (1 - t) v.
  c_x = (1 - t_next) + keep
  c_v = -(1 - t_next) * t + keep * (1 - t)
  return c_x, c_v, t_next * np.sin(noise_level * np.pi / 2)


def _table(times, coefficients, log_scale=1.0, noisy=None) -> StepTable:
  t, t_next = times[:-1], times[1:]
  c_x, c_v, std = coefficients
  if noisy is not None:
    o_x, o_v, o_std = _ode(t, t_next)
    c_x, c_v = np.where(noisy, c_x, o_x), np.where(noisy, c_v, o_v)
    std = np.where(noisy, std, o_std)
  rows = dict(
    t=t, t_next=t_next, c_x=c_x, c_v=c_v, std=std,
    diffusion=std / np.sqrt(t - t_next), log_scale=np.full_like(t, log_scale),
  )  # fmt: skip
  fields: Any = {k: np.asarray(r, np.float32) for k, r in rows.items()}
  return StepTable(**fields)


def ode(times: np.ndarray, noisy=None) -> StepTable:
  """Euler steps of the probability-flow ODE; nothing is drawn."""
  times = np.asarray(times, np.float64)
  return _table(times, _ode(times[:-1], times[1:]), noisy=noisy)


def flow_sde(
  times: np.ndarray, noisy=None, *, noise_level: float = 0.7
) -> StepTable:
  """Flow-SDE, s = a sqrt(t / (1 - t)).

  At t = 1 the denominator uses the next time, as the authors do, which makes
  the first standard deviation exactly a.
  """
  _positive("noise_level", noise_level)
  times = np.asarray(times, np.float64)
  t = times[:-1]
  below = np.where(t >= 1, times[1:], t)
  s = noise_level * np.sqrt(t / np.maximum(1 - below, 1e-12))
  return _table(times, _score_sde(t, times[1:], s), noisy=noisy)


def dance_sde(
  times: np.ndarray, noisy=None, *, noise_level: float = 0.3
) -> StepTable:
  """Dance-SDE, constant s = eta."""
  _positive("noise_level", noise_level)
  times = np.asarray(times, np.float64)
  s = np.full_like(times[:-1], noise_level)
  return _table(times, _score_sde(times[:-1], times[1:], s), noisy=noisy)


def linear_sde(
  times: np.ndarray, noisy=None, *, noise_level: float = 1.0
) -> StepTable:
  """s = a t_1 t, with the second time t_1, as Flow-GRPO draws videos of Wan."""
  _positive("noise_level", noise_level)
  times = np.asarray(times, np.float64)
  s = noise_level * times[1] * times[:-1]
  return _table(times, _score_sde(times[:-1], times[1:], s), noisy=noisy)


def with_levels(table: StepTable, s: Float[ArrayLike, "T"]) -> StepTable:
  """The table of `dance_sde` with a level per step, where it draws noise."""
  t, t_next = jnp.asarray(table.t), jnp.asarray(table.t_next)
  s = jnp.where(jnp.asarray(table.std) > 0, s, 0.0)
  c_x, c_v, std = _score_sde(t, t_next, s)
  return dataclasses.replace(table, c_x=c_x, c_v=c_v, std=std, diffusion=s)


def cps(
  times: np.ndarray, noisy=None, *, noise_level: float = 0.8
) -> StepTable:
  """Coefficients-preserving sampling; its log-probability drops the scale.

  At noise_level 1 all noise is fresh; above 1 part of the old noise returns.
  Published levels go up to 1.8; at 2 no noise is fresh.
  """
  _positive("noise_level", noise_level)
  if noise_level >= 2:
    raise UserError(
      f'config.rollout.sampler.noise_level={noise_level}: of "cps" it must be less'
      " than 2; at 1 all noise is new"
    )
  times = np.asarray(times, np.float64)
  coefficients = _cps(times[:-1], times[1:], noise_level)
  return _table(times, coefficients, log_scale=0.0, noisy=noisy)


def precise_sde(
  times: np.ndarray, noisy=None, *, noise_level: float = 0.5
) -> StepTable:
  """Flow-SDE whose variance is the exact integral over the step.

  std^2 = a^2 int_{t'}^{t} s / (1 - s) ds
        = a^2 [-(t - t') + log((1 - t') / (1 - t))],
  which is additive over any split of a step; Flow-SDE uses the integrand at the
  left end, .225 instead of .148 from .9 to .8 at a = .5. SAGE-GRPO,
  https://arxiv.org/abs/2603.21872. The integral diverges at t = 1: the
  authors end it at .997, which makes it negative where the second time is above
  that (shift 5, 68 steps or more). Here it ends at .997, or half-way from the
  second time to 1 if that is larger, for all steps.
  """
  _positive("noise_level", noise_level)
  times = np.asarray(times, np.float64)
  end = max(0.997, (1 + times[1]) / 2)
  below = np.minimum(times, end)
  integral = -below - np.log1p(-below)  # the integral from 0
  delta = times[:-1] - times[1:]
  s = noise_level * np.sqrt((integral[:-1] - integral[1:]) / delta)
  return _table(times, _score_sde(times[:-1], times[1:], s), noisy=noisy)


def renoise(times: np.ndarray, noisy=None) -> StepTable:
  """The clean prediction plus fresh noise, as in consistency-model sampling.

  mean = (1 - t') x0_hat, std = t': "cps" at level 1, with a log-probability that
  keeps its scale. RLCM, https://arxiv.org/abs/2404.03673: exploration comes
  from the sampler's own noise.
  """
  times = np.asarray(times, np.float64)
  t, t_next = times[:-1], times[1:]
  return _table(times, (1 - t_next, -(1 - t_next) * t, t_next), noisy=noisy)


def heun(times: np.ndarray, noisy=None) -> StepTable:
  """Heun's steps of the ODE, of second order; two evaluations each.

  x' = x - (t - t') (v(x, t) + v(x - (t - t') v(x, t), t')) / 2, and Euler's in the
  last step, as in EDM (Karras et al. 2022, https://arxiv.org/abs/2206.00364,
  algorithm 1); nothing is drawn.
  """
  table = ode(times, noisy)
  return dataclasses.replace(table, end_t=table.t_next)


def unipc(times: np.ndarray, noisy=None, *, order: int = 2) -> StepTable:
  """UniPC, see `multistep.solver`; nothing is drawn."""
  solver = multistep.solver(times, order=order)
  return dataclasses.replace(ode(times, noisy), solver=solver)


def dpmpp_2m(times: np.ndarray, noisy=None) -> StepTable:
  """DPM-Solver++(2M), the predictor of UniPC alone; nothing is drawn."""
  solver = multistep.solver(times, corrector=False)
  return dataclasses.replace(ode(times, noisy), solver=solver)


def _positive(field: str, value: float):
  if not 0 < value < np.inf:
    raise UserError(
      f"sampler.{field}={value}: a stochastic sampler needs a positive, finite"
      ' value; for none use sampler.name="ode"'
    )


REGISTRY: dict[str, Callable[..., StepTable]] = {
  "ode": ode,
  "flow_sde": flow_sde,
  "dance_sde": dance_sde,
  "linear_sde": linear_sde,
  "cps": cps,
  "precise_sde": precise_sde,
  "renoise": renoise,
  "heun": heun,
  "unipc": unipc,
  "dpmpp_2m": dpmpp_2m,
}
NOISY = (  # of them, by name
  "flow_sde", "dance_sde", "cps", "linear_sde", "precise_sde", "renoise",
)  # fmt: skip


def mean(
  x_t: Float[ArrayLike, "B *L"], v: Float[ArrayLike, "B *L"], step: StepTable
) -> Float[Array, "B *L"]:
  """Mean of the next latents; `step` holds scalars or [B] rows."""
  return path.expand(step.c_x, x_t) * x_t + path.expand(step.c_v, x_t) * v


def log_prob(
  x_next: Float[ArrayLike, "B *L"],
  mean_next: Float[ArrayLike, "B *L"],
  step: StepTable,
) -> Float[Array, "B"]:
  """Mean over latent elements of the log density of a step; 0 if it is ODE.

  -(x' - mean)^2 / (2 std^2) - log std - log(2 pi) / 2, averaged, not summed:
  published clip ranges belong to the average. Where `log_scale` is 0 it is
  -(x' - mean)^2, averaged.
  """
  error = jnp.square(x_next - mean_next)
  error = error.reshape(error.shape[0], -1).mean(-1)
  noisy = step.std > 0
  std = jnp.where(noisy, step.std, 1.0)
  full = -error / (2 * jnp.square(std)) - jnp.log(std) - 0.5 * LOG_2PI
  value = jnp.where(step.log_scale > 0, full, -error)
  return jnp.where(noisy, value, 0.0)
