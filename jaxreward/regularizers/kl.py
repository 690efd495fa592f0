"""Distances that keep a policy near a reference, in closed form.

No gradient flows into the reference's arrays. Each function returns a `Mean`
over the unmasked rows; multiply its value by the coefficient of the config.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.numerics import Mean
from jaxreward.types import ArrayLike

ScalarOrRows = ArrayLike | np.floating | float


def step_kl(
  mean: Float[ArrayLike, "B *L"],
  reference_mean: Float[ArrayLike, "B *L"],
  std: ScalarOrRows,
  dt: ScalarOrRows,
  mask: Bool[ArrayLike, "B"],
  *,
  with_dt: bool = True,
) -> Mean:
  """KL between two Gaussian steps of equal noise, averaged over elements.

  KL = mean (mu - mu_ref)^2 / (2 std^2), std = s sqrt(dt), in nats per latent
  element. A step without noise (std = 0) has no density and gives 0.

  Args:
    mean: mu of the step under the trained parameters.
    reference_mean: mu_ref of the same step under the reference.
    std: the step's noise, scalar or [B].
    dt: length of the step, greater than 0, scalar or [B]; read only without
      `with_dt`.
    mask: False for padding, which may hold anything.
    with_dt: False divides by 2 s^2 in place of 2 s^2 dt, the form of the
      Flow-GRPO code, which weighs late (short) steps less than the KL does.

  Returns:
    The mean over unmasked rows.
  """
  square = _mean_square(mean, reference_mean, mask)
  variance = jnp.square(jnp.asarray(std, square.dtype))
  noisy = variance > 0
  kl = jnp.where(noisy, square / (2 * jnp.where(noisy, variance, 1)), 0.0)
  return Mean.of(kl if with_dt else kl * dt, mask)


def velocity_distance(
  v: Float[ArrayLike, "B *L"],
  v_reference: Float[ArrayLike, "B *L"],
  mask: Bool[ArrayLike, "B"],
) -> Mean:
  """Mean (v - v_reference)^2, the anchor of likelihood-free objectives."""
  return Mean.of(_mean_square(v, v_reference, mask), mask)


def _mean_square(x, reference, mask):
  """Mean over elements of the squared difference [B], 0 in masked rows."""
  x = jnp.asarray(x)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  rows = jnp.reshape(mask, jnp.shape(mask) + (1,) * (x.ndim - 1))
  # Selected before the square: padding must not reach the gradient either.
  difference = jnp.where(rows, x - jax.lax.stop_gradient(reference), 0.0)
  return jnp.mean(jnp.square(difference), axis=tuple(range(1, x.ndim)))
