"""The rectified-flow path x_t = (1 - t) x_0 + t eps and its conversions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array, ArrayLike


def expand(t: ArrayLike, like: ArrayLike) -> Array:
  """t [B] with trailing axes of length 1, to broadcast over `like`."""
  t = jnp.asarray(t)
  return t.reshape(t.shape + (1,) * (jnp.ndim(like) - t.ndim))


def interpolate(
  x0: Float[ArrayLike, "B *L"],
  noise: Float[ArrayLike, "B *L"],
  t: Float[ArrayLike, "B"],
) -> Float[Array, "B *L"]:
  """x_t = (1 - t) x_0 + t eps."""
  t = expand(t, x0)
  return (1 - t) * x0 + t * noise


def x0_from_velocity(
  x_t: Float[ArrayLike, "B *L"],
  v: Float[ArrayLike, "B *L"],
  t: Float[ArrayLike, "B"],
) -> Float[Array, "B *L"]:
  """x0_hat = x_t - t v."""
  return jnp.asarray(x_t) - expand(t, x_t) * v


def logit_normal_times(
  key: Array,
  count: int,
  *,
  mean: float = 0.0,
  std: float = 1.0,
  shift: float = 1.0,
) -> Float[Array, "count"]:
  """Times in (0, 1), sigmoid of a normal, then shifted towards noise.

  Esser et al. (2024), sections 3.1 and 5.3.2: shifted t is
  s t / (1 + (s - 1) t).
  """
  t = jax.nn.sigmoid(mean + std * jax.random.normal(key, (count,)))
  return shift * t / (1 + (shift - 1) * t)


def flow_matching_loss(
  velocity: Float[ArrayLike, "B *L"],
  x0: Float[ArrayLike, "B *L"],
  noise: Float[ArrayLike, "B *L"],
) -> Float[Array, "B"]:
  """Per-sample mean of (v - (eps - x_0))^2 over latent elements."""
  error = jnp.square(velocity - (noise - x0))
  return error.reshape(error.shape[0], -1).mean(-1)
