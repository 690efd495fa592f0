"""The step in plain operations: what the kernels must equal.

  mean = c_x x_t + c_v v,   x_{t'} = mean + std xi,
  log p = -mean_L (x_{t'} - mean)^2 / (2 std^2) - log std - log(2 pi) / 2,

and log p = -mean_L (x_{t'} - mean)^2 where `log_scale` is 0, and 0 where std
is 0. All of it is in float32, whatever comes in.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

Coefficients = Float[Array, "B 4"]  # c_x, c_v, std, log_scale
Flat = Float[Array, "B D"]


def mean(x_t: Flat, v: Flat, coefficients: Coefficients) -> Flat:
  """c_x x_t + c_v v, in float32."""
  wide = lambda x: x.astype(jnp.float32)
  return coefficients[:, 0:1] * wide(x_t) + coefficients[:, 1:2] * wide(v)


def draw(
  x_t: Flat, v: Flat, noise: Flat, coefficients: Coefficients
) -> tuple[Flat, Float[Array, "B"]]:
  """Next latents in the type of x_t, and their sum of squared deviations."""
  centre = mean(x_t, v, coefficients)
  x_next = centre + coefficients[:, 2:3] * noise.astype(jnp.float32)
  x_next = x_next.astype(x_t.dtype)
  return x_next, _squares(x_next, centre)


def replay(
  x_t: Flat, v: Flat, x_next: Flat, coefficients: Coefficients
) -> Float[Array, "B"]:
  """Sum over latent elements of (x_next - mean)^2."""
  return _squares(x_next, mean(x_t, v, coefficients))


def _squares(x_next, centre):
  return jnp.sum(jnp.square(x_next.astype(jnp.float32) - centre), axis=1)


def log_density(
  squares: Float[Array, "B"], coefficients: Coefficients, elements: int
) -> Float[Array, "B"]:
  """Mean log density per element, from the sum of squared deviations.

  It stands in a conditional of its own, which no compiler fuses across: what
  is around it cannot change its rounding.
  """
  sealed = jax.lax.optimization_barrier(jnp.any(coefficients[:, 2] > 0))
  return jax.lax.cond(
    sealed,
    lambda s, c: _log_density(s / elements, c),
    lambda s, _: jnp.zeros_like(s),
    squares,
    coefficients,
  )


def _log_density(error, coefficients):
  std, log_scale = coefficients[:, 2], coefficients[:, 3]
  noisy = std > 0
  std = jnp.where(noisy, std, 1.0)
  full = -error / (2 * jnp.square(std)) - jnp.log(std) - HALF_LOG_2PI
  return jnp.where(noisy, jnp.where(log_scale > 0, full, -error), 0.0)


def slope(
  cotangent: Float[Array, "B"], coefficients: Coefficients, elements: int
) -> Float[Array, "B 1"]:
  """d log p / d mean over (x_{t'} - mean), times the cotangent."""
  std, log_scale = coefficients[:, 2], coefficients[:, 3]
  noisy = std > 0
  safe = jnp.where(noisy, std, 1.0)
  factor = jnp.where(log_scale > 0, 1 / jnp.square(safe), 2.0) / elements
  return (cotangent * jnp.where(noisy, factor, 0.0))[:, None]
