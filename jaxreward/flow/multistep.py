"""Deterministic multistep solvers: UniPC and DPM-Solver++(2M).

Zhao et al. (2023), https://arxiv.org/abs/2302.04867; Lu et al. (2022),
https://arxiv.org/abs/2211.01095. With alpha = 1 - sigma, lambda =
log(alpha / sigma) and m_i = x_i - sigma_i v_i, the predicted clean sample, one
step from sigma_s to sigma_t is linear in known values, with h = lambda_t -
lambda_s and phi = exp(-h) - 1:

  x_t = (sigma_t / sigma_s) x_s - alpha_t phi (m_s + (m_r - m_s) / (2 r)),

r = (lambda_r - lambda_s) / h of the previous step; this is "bh2" of the paper,
meant for few steps. The first and the last step are of order 1, without the
last term. UniPC then corrects x_t by the m_t evaluated there; without the
corrector it is DPM-Solver++(2M). So a step is eight numbers, computed in
float64 before the scan.
"""

from __future__ import annotations

import functools

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike

_FIRST = np.float32(1 - 1e-6)  # upper bound; lambda of 1 is minus infinity

# (corrected latents, m) of the step before, and m of the one before that
Memory = tuple[Array, Array, Array]


@flax.struct.dataclass
class Solver:
  """Constants of T steps, float32.

  Attributes:
    sigma: [T], noise before the step, for m.
    correct: [T, 5], factors of the latents as they come, of those of the step
      before, of m, and of m one and two steps before.
    predict: [T, 3], factors of the corrected latents, of m and of the previous
      m.
  """

  sigma: ArrayLike
  correct: ArrayLike
  predict: ArrayLike


def solver(
  times: np.ndarray, *, order: int = 2, corrector: bool = True
) -> Solver:
  """The constants for times t_0 > ... > t_T = 0.

  Args:
    times: [T + 1]. With the corrector a first one of 1 is taken as 1 - 1e-6, as
      diffusers does; the predictor alone takes the limit, in which the second
      step is of order 1 too, as DiffusionNFT's authors do.
    order: 1 or 2.
    corrector: False for the predictor alone.

  Raises:
    UserError: another order.
  """
  if order not in (1, 2):
    raise UserError(f"sampler.order={order}: expected 1 or 2")
  most = _FIRST if corrector else np.float32(1)
  sigma = np.minimum(np.asarray(times, np.float32), most).astype(np.float64)
  steps = len(sigma) - 1
  orders = [min(order, i + 1, steps - i) for i in range(steps)]
  correct = np.tile([1.0, 0, 0, 0, 0], (steps, 1))
  with np.errstate(divide="ignore"):  # lambda of 0 and 1 is infinite
    log_snr = np.log1p(-sigma) - np.log(sigma)
  predict = np.stack(
    [_predict(sigma, log_snr, i, n) for i, n in enumerate(orders)]
  )
  for i in range(1, steps if corrector else 0):
    correct[i] = _correct(sigma, log_snr, i, orders[i - 1])
  return Solver(
    *(np.asarray(x, np.float32) for x in (sigma[:-1], correct, predict))
  )


def _first_order(sigma, log_snr, i):
  """h and the factors of x and m for a step from i to i + 1."""
  h = log_snr[i + 1] - log_snr[i]
  return h, sigma[i + 1] / sigma[i], (sigma[i + 1] - 1) * np.expm1(-h)


def _predict(sigma, log_snr, i, order):
  h, of_x, of_m = _first_order(sigma, log_snr, i)
  before = 0.0
  if order == 2:
    before = of_m / 2 * h / (log_snr[i - 1] - log_snr[i])
  return of_x, of_m - before, before


def _correct(sigma, log_snr, i, order):
  """Repeats the step to i with the m evaluated there as a further point."""
  h, of_x, of_m = _first_order(sigma, log_snr, i - 1)
  now, before = of_m / 2, 0.0
  if order == 2:
    ratio = (log_snr[i - 2] - log_snr[i - 1]) / h
    phi = np.expm1(-h)
    phi_2 = -phi / h - 1  # phi_2 and phi_3 of -h, times its powers
    phi_3 = -phi_2 / h - 0.5
    before, now = np.linalg.solve(
      [[1.0, 1.0], [ratio, 1.0]], of_m / phi * np.array([phi_2, 2 * phi_3])
    )
    before = before / ratio
  return 0.0, of_x, now, of_m - now - before, before


def start(x: Float[Array, "B *L"]) -> Memory:
  """The memory before the first step: zeros, which get weight 0."""
  return tuple(jnp.zeros_like(x) for _ in range(3))  # pyrefly: ignore


def advance(
  x: Float[ArrayLike, "B *L"],
  v: Float[ArrayLike, "B *L"],
  memory: Memory,
  step: Solver,
) -> tuple[Float[Array, "B *L"], Memory]:
  """(next latents, memory) of one step.

  Args:
    x: latents.
    v: velocity there.
    memory: of the step before, or `start`.
    step: constants of the step.
  """

  def total(factors: ArrayLike, terms: tuple[ArrayLike, ...]) -> Array:
    parts = [factors[i] * term for i, term in enumerate(terms)]
    return functools.reduce(jnp.add, parts)

  previous_x, before, second = memory
  m = jnp.asarray(x) - step.sigma * v
  corrected = total(step.correct, (x, previous_x, m, before, second))
  following = total(step.predict, (corrected, m, before))
  return following, (corrected, m, before)
