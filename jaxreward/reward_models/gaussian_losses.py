"""Losses of Gaussian scores N(mu, s^2).

For a pair, d ~ N(mu_1 - mu_2, s_1^2 + s_2^2). Labels and masks are those of
`preference_losses`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.reward_models.preference_losses import (
  Mask,
  Pairs,
  Prob,
  answered,
)
from jaxreward.types import Array


def _spread(stds: Pairs, counts: Array) -> Array:
  """Deviation of the difference; 1 where a pair does not count."""
  stds = jnp.where(counts[..., None], jnp.asarray(stds, jnp.float32), 1.0)
  # sqrt(s_1^2 + s_2^2) without overflow of the squares.
  return jnp.hypot(stds[..., 0], stds[..., 1])


def thurstone(
  scores: Pairs, stds: Pairs, label_prob: Prob = 1.0, mask: Mask = None
) -> Mean:
  """-p log Phi(z) - (1 - p) log Phi(-z), z = (mu_1 - mu_2) / |(s_1, s_2)|.

  Thurstone's law of comparative judgement, case III (1927).

  Args:
    scores: mu, [..., 2].
    stds: s, [..., 2], above 0.
    label_prob: probability that the first is preferred; NaN if unlabeled.
    mask: pairs that count.
  """
  d, p, counts = answered(scores, label_prob, mask)
  z = d / _spread(stds, counts)
  log_phi = jax.scipy.stats.norm.logcdf
  return Mean.of(-p * log_phi(z) - (1 - p) * log_phi(-z), counts)


def expected_bradley_terry(
  scores: Pairs,
  stds: Pairs,
  label_prob: Prob = 1.0,
  mask: Mask = None,
  *,
  margin: float = 0.0,
  nodes: int = 16,
) -> Mean:
  """Expected Bradley-Terry loss over the difference of two Gaussian scores.

  EditReward (https://arxiv.org/abs/2509.26346) samples the difference a
  thousand times; here Gauss-Hermite quadrature replaces sampling.

  Args:
    scores: mu, [..., 2].
    stds: s, [..., 2].
    label_prob: probability that the first is preferred; NaN if unlabeled.
    mask: pairs that count.
    margin: by which the preferred score must lead; 0.57 is another of the
      authors' settings.
    nodes: of the quadrature.
  """
  if not 1 <= nodes <= 64:
    raise UserError(f"loss.nodes={nodes}: it must lie between 1 and 64")
  d, p, counts = answered(scores, label_prob, mask)
  at, share = np.polynomial.hermite_e.hermegauss(nodes)
  share = jnp.asarray(share / share.sum(), jnp.float32)
  z = d[..., None] + _spread(stds, counts)[..., None] * jnp.asarray(
    at, jnp.float32
  )
  first = jax.nn.softplus(margin - z) @ share
  second = jax.nn.softplus(margin + z) @ share
  return Mean.of(p * first + (1 - p) * second, counts)
