"""A target whose velocity field is known: x_0 ~ N(m, c^2) per element."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxreward.types import Policy

MEAN, STD = 1.5, 0.4


def moments(t, mean=MEAN, std=STD):
  """(mean, variance) of x_t = (1 - t) x_0 + t eps."""
  return (1 - t) * mean, (1 - t) ** 2 * std**2 + t**2


def affine(t, mean=MEAN, std=STD):
  """(a, b) of v(x, t) = E[eps - x_0 | x_t = x] = a x + b.

  cov(eps - x_0, x_t) = t - (1 - t) c^2.
  """
  centre, variance = moments(t, mean, std)
  a = (t - (1 - t) * std**2) / variance
  return a, -mean - a * centre


def policy(shape=(1, 1, 1)) -> Policy:
  """The exact velocity as a Policy; parameters are (mean, std)."""

  def velocity(params, x, t, cond):
    a, b = affine(t.reshape(-1, 1, 1, 1), params["mean"], params["std"])
    return a * x + b

  return Policy(
    init=lambda key: {"mean": jnp.float32(MEAN), "std": jnp.float32(STD)},
    encode=lambda params, tokens: {"none": jnp.zeros((len(tokens), 1))},
    velocity=velocity,
    to_pixels=lambda x, decoder=None: x,
    latent_shape=shape,
  )


def propagate(table, mean=MEAN, std=STD) -> np.ndarray:
  """[T + 1, 2] mean and variance under the sampler, exact, in float64.

  The velocity is affine, so every step maps a Gaussian to a Gaussian.
  """
  state = [np.array([0.0, 1.0])]
  for t, c_x, c_v, s in zip(
    *(np.float64(r) for r in (table.t, table.c_x, table.c_v, table.std)),
    strict=True,
  ):
    a, b = affine(t, mean, std)
    gain, m, var = c_x + c_v * a, *state[-1]
    state.append(np.array([gain * m + c_v * b, gain**2 * var + s**2]))
  return np.stack(state)
