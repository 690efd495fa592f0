"""The step in plain operations, the reference of the kernels.

  mean = c_x x_t + c_v v,   x_{t'} = mean + std xi,
  log p = -mean_L (x_{t'} - mean)^2 / (2 std^2) - log std - log(2 pi) / 2,

and log p = -mean_L (x_{t'} - mean)^2 where `log_scale` is 0, and 0 where std
is 0. Everything is computed in float32.
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
  as_float32 = lambda x: x.astype(jnp.float32)
  return coefficients[:, 0:1] * as_float32(x_t) + coefficients[
    :, 1:2
  ] * as_float32(v)


def draw(
  x_t: Flat, v: Flat, noise: Flat, coefficients: Coefficients
) -> tuple[Flat, Float[Array, "B"]]:
  """Next latents in the type of x_t, and their sum of squared deviations."""
  x_next = _sealed(_next, x_t, v, noise, coefficients)
  return x_next, replay(x_t, v, x_next, coefficients)


def _next(x_t, v, noise, coefficients):
  centre = mean(x_t, v, coefficients)
  x_next = centre + coefficients[:, 2:3] * noise.astype(jnp.float32)
  return x_next.astype(x_t.dtype)


def replay(
  x_t: Flat, v: Flat, x_next: Flat, coefficients: Coefficients
) -> Float[Array, "B"]:
  """Sum over latent elements of (x_next - mean)^2, sealed."""
  return _sealed(_squares, x_t, v, x_next, coefficients)


def _squares(x_t, v, x_next, coefficients):
  deviation = x_next.astype(jnp.float32) - mean(x_t, v, coefficients)
  return jnp.sum(jnp.square(deviation), axis=1)


def _sealed(function, *operands):
  """`function(*operands)`, equal to the bit in every program.

  It is wrapped in a conditional, which compilers do not fuse across, so that
  its surroundings cannot change its rounding. The predicate is always true,
  behind a barrier that prevents constant folding; the last operand is the
  coefficients.
  """
  always = jax.lax.optimization_barrier(jnp.all(operands[-1][:, 2] >= 0))
  result = jax.eval_shape(function, *operands)
  nothing = lambda *_: jnp.zeros(result.shape, result.dtype)
  return jax.lax.cond(always, function, nothing, *operands)


def log_density(
  squares: Float[Array, "B"], coefficients: Coefficients, elements: int
) -> Float[Array, "B"]:
  """Mean log density per element from the summed squares, sealed."""
  density = lambda s, c: _log_density(s / elements, c)
  return _sealed(density, squares, coefficients)


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
