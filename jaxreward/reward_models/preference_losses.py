"""Losses of scores under preferences.

A pairwise loss takes scores [..., 2] and the probability [...] that the first
is preferred: 1 if it is chosen (the default), 0 if the second is, one half for
a tie. Pairs whose probability is NaN are unlabeled and ignored, as are masked
ones. d is the first score minus the second.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.types import Array, ArrayLike

Pairs = Float[ArrayLike, "*B 2"]
Prob = Float[ArrayLike, "*B"] | float
Mask = Bool[ArrayLike, "*B"] | None


def answered(
  scores: Pairs, prob: Prob, mask: Mask
) -> tuple[Array, Array, Array]:
  """(d, p, mask) with finite placeholders where a pair does not count."""
  scores = jnp.asarray(scores, jnp.float32)
  prob = jnp.broadcast_to(jnp.asarray(prob, jnp.float32), scores.shape[:-1])
  counts = jnp.isfinite(prob)
  if mask is not None:
    counts &= jnp.asarray(mask, bool)
  scores = jnp.where(counts[..., None], scores, 0.0)
  d = scores[..., 0] - scores[..., 1]
  return d, jnp.where(counts, prob, 0.5), counts


def bradley_terry(
  scores: Pairs,
  label_prob: Prob = 1.0,
  mask: Mask = None,
  *,
  margin: float = 0.0,
  label_noise: float = 0.0,
) -> Mean:
  """-p log sigmoid(d - m) - (1 - p) log sigmoid(-d - m).

  Bradley and Terry (1952); the margin as in Llama 2 (Touvron et al., 2023,
  eq. 2).

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; NaN if unlabeled.
    mask: pairs that count.
    margin: m, by which the preferred score must lead.
    label_noise: e, the assumed share of flipped labels; p becomes
      e + (1 - 2 e) p, so that the optimal d is finite.

  Raises:
    UserError: a share outside [0, 0.5).
  """
  if not 0 <= label_noise < 0.5:
    raise UserError(
      f"loss.label_noise={label_noise}: expected at least 0 and less than 0.5"
    )
  d, p, counts = answered(scores, label_prob, mask)
  p = label_noise + (1 - 2 * label_noise) * p
  loss = p * jax.nn.softplus(margin - d) + (1 - p) * jax.nn.softplus(margin + d)
  return Mean.of(loss, counts)


def rao_kupper(
  scores: Pairs,
  label_prob: Prob = 1.0,
  mask: Mask = None,
  *,
  threshold: float = 2.0,
) -> Mean:
  """Bradley-Terry with ties (Rao and Kupper, 1967, eq. 2.10).

  P(first) = sigmoid(d - log k), P(second) = sigmoid(-d - log k), and
  P(tie) = (k^2 - 1) P(first) P(second). A label probability between 0 and 1
  mixes the tie (weight 1 - |2 p - 1|) with the nearer certain label.

  Args:
    scores: [..., 2].
    label_prob: 1, 0, or one half for a tie; NaN if unlabeled.
    mask: pairs that count.
    threshold: k > 1; ties grow with it.
  """
  if not threshold > 1:
    raise UserError(
      f"loss.threshold={threshold}: it must be above 1, where ties begin"
    )
  d, p, counts = answered(scores, label_prob, mask)
  shift = math.log(threshold)
  first = jax.nn.log_sigmoid(d - shift)
  second = jax.nn.log_sigmoid(-d - shift)
  tie = math.log(threshold**2 - 1) + first + second
  sure = 2 * p - 1
  log_p = (
    jnp.maximum(sure, 0) * first
    + jnp.maximum(-sure, 0) * second
    + (1 - jnp.abs(sure)) * tie
  )
  return Mean.of(-log_p, counts)


def hinge(
  scores: Pairs,
  label_prob: Prob = 1.0,
  mask: Mask = None,
  *,
  margin: float = 1.0,
) -> Mean:
  """p max(0, m - d) + (1 - p) max(0, m + d)."""
  d, p, counts = answered(scores, label_prob, mask)
  loss = p * jax.nn.relu(margin - d) + (1 - p) * jax.nn.relu(margin + d)
  return Mean.of(loss, counts)


def focal(
  scores: Pairs,
  label_prob: Prob = 1.0,
  mask: Mask = None,
  *,
  gamma: float = 2.0,
) -> Mean:
  """-p (1 - q)^g log q - (1 - p) q^g log (1 - q), q = sigmoid(d).

  Easy pairs count less (Lin et al., 2017, https://arxiv.org/abs/1708.02002).

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; NaN if unlabeled.
    mask: pairs that count.
    gamma: g, 0 or more; 0 is Bradley-Terry.
  """
  if not gamma >= 0:
    raise UserError(f"loss.gamma={gamma}: it must be 0 or more")
  d, p, counts = answered(scores, label_prob, mask)
  first, second = jax.nn.log_sigmoid(d), jax.nn.log_sigmoid(-d)
  loss = -p * jnp.exp(gamma * second) * first
  loss -= (1 - p) * jnp.exp(gamma * first) * second
  return Mean.of(loss, counts)


def variational(
  scores: Pairs,
  label_prob: Prob,
  kl: Float[ArrayLike, "R"],
  mask: Mask = None,
  *,
  beta: float = 0.01,
) -> Mean:
  """Bradley-Terry plus beta times the mean KL of the users' latents.

  VPL, https://arxiv.org/abs/2408.10075, without its annealing of beta.

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; NaN if unlabeled.
    kl: in nats, of each row.
    mask: pairs that count.
    beta: 0 or more.
  """
  if not beta >= 0:
    raise UserError(f"loss.beta={beta}: it must be 0 or more")
  loss = bradley_terry(scores, label_prob, mask)
  return Mean(loss.total + beta * jnp.mean(kl) * loss.weight, loss.weight)


def plackett_luce(
  scores: Float[ArrayLike, "*B N"],
  mask: Bool[ArrayLike, "*B N"] | None = None,
) -> Mean:
  """-sum_k log exp(s_k) / sum_{l >= k} exp(s_l), best first.

  Plackett (1975), Luce (1959); for N = 2 it is Bradley-Terry.

  Args:
    scores: [..., N], the best candidate first, the worst last.
    mask: valid candidates; the order of the others is kept.

  Returns:
    Mean over the lists with at least two candidates.
  """
  scores = jnp.asarray(scores, jnp.float32)
  valid = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask)
  safe = jnp.where(valid, scores, 0.0)
  low = jnp.where(valid, safe, -1e30)
  # log-sum-exp over the remaining candidates at each position.
  log_sums = jax.lax.cumlogsumexp(low, axis=low.ndim - 1, reverse=True)
  loss = jnp.where(valid, log_sums - safe, 0.0).sum(-1)
  return Mean.of(loss, valid.sum(-1) >= 2)
