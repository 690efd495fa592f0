"""Losses that read how good images are, not only which of two is better.

Ratings are in [0, 1] and NaN where nobody has rated. "row_..." arrays hold all
K images of a row, the others pairs of them as in `preference_losses`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.reward_models.preference_losses import (
  Mask,
  Pairs,
  Prob,
  answered,
  plackett_luce,
)
from jaxreward.types import Array, ArrayLike

Row = Float[ArrayLike, "R K"]


def scaled_bradley_terry(
  scores: Pairs,
  label_prob: Prob,
  strength: Float[ArrayLike, "*B"],
  mask: Mask = None,
  *,
  levels: int = 3,
) -> Mean:
  """m times the Bradley-Terry loss, m = 1 ... levels how strong the answer is.

  The strength multiplies the loss, where a margin would move its target
  (HelpSteer2-Preference, https://arxiv.org/abs/2410.01257). The mean is over
  the sum of m, so that the learning rate does not depend on it.

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; NaN is no answer.
    strength: distance of the two ratings, cut into `levels` equal parts; of
      unrated pairs m is 1.
    mask: pairs that count.
    levels: of the strength.
  """
  if levels < 1:
    raise UserError(f"loss.levels={levels}: it must be 1 or more")
  d, p, counts = answered(scores, label_prob, mask)
  strong = jnp.nan_to_num(jnp.asarray(strength, jnp.float32))
  m = jnp.clip(jnp.ceil(levels * strong), 1, levels)
  loss = p * jax.nn.softplus(-d) + (1 - p) * jax.nn.softplus(d)
  weight = jnp.where(counts, m, 0.0)
  return Mean(jnp.sum(weight * loss), jnp.sum(weight))


def solireward(
  scores: Pairs,
  label_prob: Prob,
  ratings: Pairs,
  mask: Mask = None,
  *,
  margin: float = 3.0,
  good: float = 0.5,
  tie_weight: float = 1.0,
) -> Mean:
  """A margin for wins, and a band in which all good images stay.

  Of a good and a bad image, -log sigmoid(d - m); of two good ones
  -log sigmoid(d - m) - log sigmoid(-d - m), so that a policy has no reason to
  chase a few outliers; of two bad ones nothing (SoliReward,
  https://arxiv.org/abs/2512.22170). Its authors also pair images of different
  prompts; pairs are of one prompt here.

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; ties have to be
      answered by one half (`ties="half"`).
    ratings: of both images; above `good` they are good.
    mask: pairs that count.
    margin: m.
    good: the least that a good image is rated above.
    tie_weight: of pairs of two good images.
  """
  d, p, counts = answered(scores, label_prob, mask)
  is_good = jnp.asarray(ratings) > good
  both = is_good.all(-1)
  first, second = jax.nn.softplus(margin - d), jax.nn.softplus(margin + d)
  loss = jnp.where(
    both, tie_weight * (first + second), p * first + (1 - p) * second
  )
  return Mean.of(loss, counts & (both | (is_good.any(-1) & (p != 0.5))))


def best_of_row(row_scores: Row, row_ratings: Row) -> Mean:
  """-log softmax(s) of the best image of a row; of several best ones the mean.

  One choice among K images in the place of their pairs (You Only Judge Once,
  https://arxiv.org/abs/2604.10966). Of two images it is Bradley-Terry.

  Args:
    row_scores: of all images of a row.
    row_ratings: of them; unrated ones are no candidates.
  """
  there = jnp.isfinite(row_ratings)
  rating = jnp.where(there, row_ratings, -jnp.inf)
  best = there & (rating == rating.max(-1, keepdims=True))
  low = jnp.where(there, jnp.asarray(row_scores, jnp.float32), -1e30)
  log_p = jax.nn.log_softmax(low, -1)
  share = best / jnp.maximum(best.sum(-1, keepdims=True), 1)
  loss = -jnp.where(best, share * log_p, 0.0).sum(-1)
  return Mean.of(loss, (there & ~best).any(-1))


def ranked_plackett_luce(row_scores: Row, row_ratings: Row) -> Mean:
  """`plackett_luce` of the order of a row's ratings; equal ones as they come."""
  rating = jnp.asarray(row_ratings)
  there = jnp.isfinite(rating)
  order = jnp.argsort(jnp.where(there, -rating, jnp.inf), -1, stable=True)
  take = lambda x: jnp.take_along_axis(jnp.asarray(x), order, -1)
  return plackett_luce(take(row_scores), take(there))


def level_of(ratings: Float[ArrayLike, "*B"], levels: int) -> Array:
  """0 ... levels - 1, ratings in [0, 1] cut into equal parts; NaN gives 0."""
  ratings = jnp.nan_to_num(jnp.asarray(ratings))
  return jnp.clip(jnp.floor(levels * ratings), 0, levels - 1).astype(jnp.int32)


def ordinal_pairs(
  log_probs: Float[ArrayLike, "*B 2 K"],
  label_prob: Prob,
  ratings: Pairs,
  mask: Mask = None,
  *,
  regions: int = 0,
) -> Mean:
  """-log P(the preferred image has the higher grade), of two distributions.

  P is the sum over all grades i > j of p_first(i) p_second(j). With regions,
  each image's grade has to lie in the part of the scale that its rating lies
  in (region flooding of OPRM, https://arxiv.org/abs/2602.12660); where that
  contradicts the answer, or nobody has rated, the whole scale counts. Ties
  count half as one answer and half as the other, which the authors do not say.

  Args:
    log_probs: of K grades, for both images.
    label_prob: probability that the first is preferred; NaN is no answer.
    ratings: of both images.
    mask: pairs that count.
    regions: equal parts of the scale and of the ratings; 0 for none.
  """
  if regions < 0:
    raise UserError(f"loss.regions={regions}: it must be 0 or more")
  log_probs = jnp.asarray(log_probs, jnp.float32)
  grades = log_probs.shape[-1]
  _, p, counts = answered(log_probs[..., 0], label_prob, mask)
  safe = jnp.where(counts[..., None, None], log_probs, 0.0)
  joint = safe[..., 0, :, None] + safe[..., 1, None, :]
  higher = jnp.tril(jnp.ones((grades, grades), bool), -1)
  allowed = jnp.ones(joint.shape, bool)
  if regions:
    part = level_of((jnp.arange(grades) + 0.5) / grades, regions)
    known = jnp.isfinite(jnp.asarray(ratings))
    region = level_of(ratings, regions)
    inside = (region[..., None] == part) | ~known[..., None]
    allowed = inside[..., 0, :, None] & inside[..., 1, None, :]

  def log_p(cells: Array) -> Array:
    some = cells & allowed
    cells = jnp.where(some.any((-2, -1), keepdims=True), some, cells)
    return jax.nn.logsumexp(jnp.where(cells, joint, -1e30), (-2, -1))

  loss = -p * log_p(higher) - (1 - p) * log_p(higher.T)
  return Mean.of(loss, counts)


def corn(row_logits: Float[ArrayLike, "R K J"], row_ratings: Row) -> Mean:
  """Conditional ordinal regression: is the grade above k, given it is k or more?

  Binary cross-entropy of each of J thresholds, over the images that reach it
  (Shi et al., 2021, https://arxiv.org/abs/2111.08851), as VEFX-Bench's head
  reads; that its authors train so is unverified.

  Args:
    row_logits: of the J thresholds between J + 1 grades.
    row_ratings: of the images; unrated ones do not count.
  """
  logits = jnp.asarray(row_logits, jnp.float32)
  steps = jnp.arange(logits.shape[-1])
  grade = level_of(row_ratings, logits.shape[-1] + 1)[..., None]
  above = grade > steps
  loss = jax.nn.softplus(jnp.where(above, -logits, logits))
  reached = jnp.isfinite(row_ratings)[..., None] & (grade >= steps)
  return Mean.of(loss, reached)
