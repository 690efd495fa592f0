"""Losses of Gaussian scores N(mu, s^2).

For a pair, d ~ N(mu_1 - mu_2, s_1^2 + s_2^2). Labels and masks are those of
`preference_losses`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean, masked_mean
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
  _, p, counts = answered(scores, label_prob, mask)
  counts &= p != 0.5
  mean = jnp.where(counts[..., None], jnp.asarray(scores, jnp.float32), 0.0)
  std = jnp.where(counts[..., None], jnp.asarray(stds, jnp.float32), 1.0)
  swap = (p < 0.5)[..., None]
  mean, std = (jnp.where(swap, x[..., ::-1], x) for x in (mean, std))
  tau = _drawn(mean, std, keys, samples)
  rewards = jnp.stack(contrast_rewards(tau[..., 0, :], tau[..., 1, :]), -2)
  loss = _policy_gradient(tau, rewards, mean, std)
  return Mean.of(loss.mean(-1), counts)


def _drawn(mean: Array, std: Array, keys: ArrayLike, samples: int) -> Array:
  """Scores [R, ..., N] of N(mean, std^2), without a gradient."""
  if samples < 2:
    raise UserError(f"loss.samples={samples}: it must be 2 or more")
  shape = (*mean.shape[1:], samples)
  noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
  return jax.lax.stop_gradient(mean[..., None] + std[..., None] * noise)


def _policy_gradient(
  tau: Array, rewards: Array, mean: Array, std: Array
) -> Array:
  """-A log p, the mean over N scores [..., N], A normalized over them."""
  center = rewards - rewards.mean(-1, keepdims=True)
  advantage = center / (rewards.std(-1, keepdims=True) + 1e-4)
  z = (tau - mean[..., None]) / std[..., None]
  log_p = -0.5 * jnp.square(z) - jnp.log(std)[..., None]
  return -(advantage * log_p).mean(-1)


def _policy_of_rows(
  rewards_of: Callable[[Array, ArrayLike], Array],
  row_scores: ArrayLike,
  row_stds: ArrayLike,
  row_prob: ArrayLike,
  counts: Array,
  keys: ArrayLike,
  samples: int,
) -> Mean:
  """-A log p of scores drawn for the images of rows, over those that count."""
  mean = jnp.where(counts, jnp.asarray(row_scores, jnp.float32), 0.0)
  std = jnp.where(counts, jnp.asarray(row_stds, jnp.float32), 1.0)
  tau = _drawn(mean, std, keys, samples)
  rewards = rewards_of(tau, row_prob)
  return Mean.of(_policy_gradient(tau, rewards, mean, std), counts)


def fidelity_rewards(
  tau: Float[ArrayLike, "R K N"], row_prob: Float[ArrayLike, "R K K"]
) -> Float[Array, "R K N"]:
  """How well sampled scores rank their image among the labelled others.

  The mean over the other images z of sqrt(p g) + sqrt((1 - p)(1 - g)), where g is the
  label and p = Phi((tau - mean_z) / sqrt(var + var_z)) has sample statistics; 1e-6
  is added under each root, as the authors do.
  """
  tau, g = jnp.asarray(tau, jnp.float32), jnp.asarray(row_prob)
  counts = jnp.isfinite(g)
  g = jnp.where(counts, g, 0.5)[..., None]
  mean, var = tau.mean(-1), tau.var(-1, ddof=1)
  gap = tau[:, :, None] - mean[:, None, :, None]
  spread = jnp.sqrt(var[:, :, None] + var[:, None] + 1e-6)[..., None]
  p = jax.scipy.stats.norm.cdf(gap / spread)
  agreement = jnp.sqrt(p * g + 1e-6) + jnp.sqrt((1 - p) * (1 - g) + 1e-6)
  return masked_mean(agreement, counts[..., None], axis=2)


def rank_policy(
  row_scores: Float[ArrayLike, "R K"],
  row_stds: Float[ArrayLike, "R K"],
  row_prob: Float[ArrayLike, "R K K"],
  keys: ArrayLike,
  *,
  samples: int = 6,
) -> Mean:
  """A scorer that samples, rewarded by the fidelity of its ranks.

  K scores of each image are drawn of N(mu, s^2); -A log p with A of
  `fidelity_rewards`, normalized over an image's scores (VisualQuality-R1,
  https://arxiv.org/abs/2505.14460, without its clip and KL, which have no effect in
  the first step after sampling). The images of a row are compared, where the authors
  compare those of a device.

  Args:
    row_scores: mu.
    row_stds: s.
    row_prob: probability that one image is preferred to another, 1/2 for a tie; NaN
      if unlabeled, as an image beside itself.
    keys: random keys [R].
    samples: K.
  """
  counts = jnp.isfinite(jnp.asarray(row_prob)).any(-1)
  return _policy_of_rows(
    fidelity_rewards, row_scores, row_stds, row_prob, counts, keys, samples
  )


def concordant(
  tau: Float[ArrayLike, "R K N"], row_prob: Float[ArrayLike, "R K K"]
) -> Float[Array, "R K N"]:
  """Share of the other images that a sampled score ranks correctly against.

  Equal scores count half; pairs without an answer, and ties, do not count.
  """
  tau, g = jnp.asarray(tau, jnp.float32), jnp.asarray(row_prob)
  sure = jnp.where(jnp.isfinite(g), jnp.sign(2 * g - 1), 0.0)[..., None]
  right = (1 + sure * jnp.sign(tau[:, :, None] - tau[:, None])) / 2
  return masked_mean(right, sure != 0, axis=2)


def concordant_policy(
  row_scores: Float[ArrayLike, "R K"],
  row_stds: Float[ArrayLike, "R K"],
  row_prob: Float[ArrayLike, "R K K"],
  keys: ArrayLike,
  *,
  samples: int = 8,
) -> Mean:
  """A scorer that samples, rewarded by the share of pairs in the right order.

  N scores of each image are drawn of N(mu, s^2), each beside those of the row's other
  images of the same draw; -A log p with A of `concordant`, normalized over an image's
  scores. The batch ranking of judges that see counterfactual, slightly wrong answers
  (Mitigating Perceptual Judgment Bias, https://arxiv.org/abs/2606.02578); the exact form,
  the number of samples, and that correctness and form are not rewarded besides, are
  unverified.

  Args:
    row_scores: mu.
    row_stds: s.
    row_prob: probability that one image is preferred to another; ties and NaN are
      left out.
    keys: random keys [R].
    samples: N.
  """
  prob = jnp.asarray(row_prob)
  counts = (jnp.isfinite(prob) & (prob != 0.5)).any(-1)
  return _policy_of_rows(
    concordant, row_scores, row_stds, row_prob, counts, keys, samples
  )


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
