"""Losses of scores under preferences.

A pairwise loss takes scores [..., 2] and the probability [...] that the first
is preferred: 1 where it is the chosen one (the default), 0 where the second
is, one half for a tie. A pair whose probability is NaN has no answer and
counts for nothing, as does a masked one. d is the first score less the second.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxreward.numerics import Mean
from jaxreward.types import Array, ArrayLike

Pairs = Float[ArrayLike, "*B 2"]
Prob = Float[ArrayLike, "*B"] | float
Mask = Bool[ArrayLike, "*B"] | None


def _answered(scores: Pairs, prob: Prob, mask: Mask):
  """(d, prob, mask) with finite stand-ins where a pair does not count."""
  scores = jnp.asarray(scores, jnp.float32)
  prob = jnp.broadcast_to(jnp.asarray(prob, jnp.float32), scores.shape[:-1])
  counts = jnp.isfinite(prob)
  if mask is not None:
    counts &= jnp.asarray(mask, bool)
  scores = jnp.where(counts[..., None], scores, 0.0)
  return (
    scores[..., 0] - scores[..., 1],
    jnp.where(counts, prob, 0.5),
    counts,
  )


def bradley_terry(
  scores: Pairs,
  label_prob: Prob = 1.0,
  mask: Mask = None,
  *,
  margin: float = 0.0,
  smoothing: float = 0.0,
) -> Mean:
  """-p log sigmoid(d - m) - (1 - p) log sigmoid(-d - m).

  Bradley and Terry (1952); the margin m as in Llama 2 (Touvron et al., 2023,
  eq. 2).

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; NaN is no answer.
    mask: pairs that count.
    margin: m, a lead that the preferred score must have.
    smoothing: s; p becomes s + (1 - 2 s) p. At the rate at which labels are
      turned round it makes the expected loss that of... the true scores.
  """
  d, p, counts = _answered(scores, label_prob, mask)
  p = smoothing + (1 - 2 * smoothing) * p
  loss = p * jax.nn.softplus(margin - d) + (1 - p) * jax.nn.softplus(margin + d)
  return Mean.of(loss, counts)
