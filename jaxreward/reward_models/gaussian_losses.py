"""Losses of Gaussian scores N(mu, s^2).

For a pair, d ~ N(mu_1 - mu_2, s_1^2 + s_2^2). Labels and masks are those of
`preference_losses`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.reward_models.preference_losses import (
  Mask,
  Pairs,
  Prob,
  answered,
)
from jaxreward.types import Array, ArrayLike


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


def fidelity(
  scores: Pairs, stds: Pairs, label_prob: Prob = 1.0, mask: Mask = None
) -> Mean:
  """1 - sqrt(p Phi(z)) - sqrt((1 - p) Phi(-z)), with z as in `thurstone`.

  Bounded by 1 whatever the scores (Tsai et al., 2007; the reward of
  VisualQuality-R1, https://arxiv.org/abs/2505.14460).

  Args:
    scores: mu, [..., 2].
    stds: s, [..., 2], above 0.
    label_prob: probability that the first is preferred; NaN if unlabeled.
    mask: pairs that count.
  """
  d, p, counts = answered(scores, label_prob, mask)
  z = d / _spread(stds, counts)
  root = lambda z: jnp.exp(jax.scipy.stats.norm.logcdf(z) / 2)
  loss = 1 - jnp.sqrt(p) * root(z) - jnp.sqrt(1 - p) * root(-z)
  return Mean.of(loss, counts)


def contrast_rewards(
  winner: Float[ArrayLike, "*B N"], loser: Float[ArrayLike, "*B N"]
) -> tuple[Array, Array]:
  """The share of the other side that each sampled score beats, or loses to."""
  beats = jnp.asarray(winner)[..., :, None] > jnp.asarray(loser)[..., None, :]
  beats = beats.astype(jnp.float32)
  return beats.mean(-1), beats.mean(-2)


def contrast_policy(
  scores: Pairs,
  stds: Pairs,
  label_prob: Prob,
  keys: ArrayLike,
  mask: Mask = None,
  *,
  samples: int = 8,
) -> Mean:
  """Group contrastive preference optimization of a scorer that samples.

  N scores of each image are drawn of N(mu, s^2). A winner's score is rewarded
  by the share of the loser's that it beats, a loser's by the share that beats
  it; -A log p with advantages normalized on each side (Edit-R1's verifier,
  https://arxiv.org/abs/2604.27505, without its clip and KL, which have no effect
  in the first step after sampling). Ties are excluded.

  Args:
    scores: mu, [R, C, 2].
    stds: s, [R, C, 2].
    label_prob: probability that the first is preferred; NaN if unlabeled.
    keys: random keys [R].
    mask: pairs that count.
    samples: N (unverified).
  """
  if samples < 2:
    raise UserError(f"loss.samples={samples}: it must be 2 or more")
  d, p, counts = answered(scores, label_prob, mask)
  counts &= p != 0.5
  mean = jnp.where(counts[..., None], jnp.asarray(scores, jnp.float32), 0.0)
  std = jnp.where(counts[..., None], jnp.asarray(stds, jnp.float32), 1.0)
  swap = (p < 0.5)[..., None]
  mean, std = (jnp.where(swap, x[..., ::-1], x) for x in (mean, std))
  noise = jax.vmap(
    lambda key: jax.random.normal(key, (*d.shape[1:], 2, samples))
  )(keys)
  tau = jax.lax.stop_gradient(mean[..., None] + std[..., None] * noise)
  rewards = jnp.stack(contrast_rewards(tau[..., 0, :], tau[..., 1, :]), -2)
  center = rewards - rewards.mean(-1, keepdims=True)
  advantage = center / (rewards.std(-1, keepdims=True) + 1e-4)
  z = (tau - mean[..., None]) / std[..., None]
  log_p = -0.5 * jnp.square(z) - jnp.log(std)[..., None]
  return Mean.of(-(advantage * log_p).mean((-2, -1)), counts)


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
