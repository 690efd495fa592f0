"""Densities of the training times, as quantile functions.

Stratified draws u in (0, 1) become times in (0, 1), from data to noise; the
shift of the schedule is applied after. Esser et al. 2024,
https://arxiv.org/abs/2403.03206, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.types import Array

Uniform = Float[Array, "..."]


def uniform(u: Uniform) -> Uniform:
  """Every time equally often: rectified flow."""
  return u


def logit_normal(u: Uniform, *, mean: float = 0.0, std: float = 1.0) -> Uniform:
  """t = sigmoid(mean + std z), z normal: more times in the middle, eq. 19.

  Args:
    u: uniform draws.
    mean: of the logit; above 0 towards noise.
    std: of the logit, greater than 0.
  """
  if not std > 0:
    raise UserError(f"align.density.std={std}: it must be greater than 0")
  return jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u))


def mode(u: Uniform, *, scale: float = 1.29) -> Uniform:
  """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), eq. 20; heavy tails.

  Args:
    u: uniform draws.
    scale: from -1 to 2 / (pi - 2); 0 is uniform.
  """
  if not -1 <= scale <= 1.7519:
    raise UserError(
      f"align.density.scale={scale}: it must lie between -1 and 1.7519, where"
      " times grow one way"
    )
  return 1 - u - scale * (jnp.square(jnp.cos(jnp.pi / 2 * u)) - 1 + u)


# (u in (0, 1), *, ...) -> times in (0, 1)
DENSITIES: dict[str, Callable[..., Array]] = {
  "uniform": uniform,
  "logit_normal": logit_normal,
  "mode": mode,
}
