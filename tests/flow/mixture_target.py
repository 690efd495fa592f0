"""A target of two hills whose velocity field is known, one number per sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxreward.types import Policy

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([-1.2, 1.0])
STDS = np.array([0.35, 0.25])


def parts(t):
  """(means, variances) of the hills of x_t = (1 - t) x_0 + t eps."""
  return (1 - t) * MEANS, (1 - t) ** 2 * STDS**2 + t**2


def density(x, t):
  """p_t at x [N]."""
  means, variances = parts(t)
  each = stats.norm.pdf(x[:, None], means, np.sqrt(variances))
  return each @ WEIGHTS


def cumulative(x, t):
  """P(x_t <= x)."""
  means, variances = parts(t)
  return stats.norm.cdf(x[:, None], means, np.sqrt(variances)) @ WEIGHTS


def velocity(x, t, xp=np):
  """E[eps - x_0 | x_t = x]: the hills' velocities by how likely each is."""
  means, variances = (1 - t) * MEANS, (1 - t) ** 2 * STDS**2 + t**2
  x = x[..., None]
  log = -0.5 * (x - means) ** 2 / variances - 0.5 * xp.log(variances)
  log = log + xp.log(WEIGHTS)
  share = xp.exp(log - log.max(-1, keepdims=True))
  share = share / share.sum(-1, keepdims=True)
  slope = (t - (1 - t) * STDS**2) / variances
  return (share * (slope * (x - means) - MEANS)).sum(-1)


def policy() -> Policy:
  """The exact velocity as a Policy without parameters."""

  def of_rows(params, x, t, cond):
    rows = jax.vmap(lambda x, t: velocity(x, t, jnp))
    return rows(x[:, 0, 0, 0], t)[:, None, None, None]

  return Policy(
    init=lambda key: {},
    encode=lambda params, tokens: {"none": jnp.zeros((len(tokens), 1))},
    velocity=of_rows,
    to_pixels=lambda x, decoder=None: x,
    latent_shape=(1, 1, 1),
  )
