"""Losses that use ratings of images, not only preferences.

Ratings are in [0, 1] and NaN where unlabeled. "row_..." arrays hold all K
images of a row, the others pairs of them as in `preference_losses`.
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
  """m times the Bradley-Terry loss, m = 1 ... levels the preference strength.

  The strength scales the loss instead of moving its target like a margin
  (HelpSteer2-Preference, https://arxiv.org/abs/2410.01257). The sum is divided
  by the sum of m, so that the learning rate does not depend on m.

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; NaN if unlabeled.
    strength: distance of the two ratings, divided into `levels` equal parts;
      m is 1 for unrated pairs.
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
  """A margin for wins, and a band of scores for all good images.

  -log sigmoid(d - m) for a good and a bad image;
  -log sigmoid(d - m) - log sigmoid(-d - m) for two good ones, so that a policy
  gains nothing from outliers; 0 for two bad ones (SoliReward,
  https://arxiv.org/abs/2512.22170). The authors also pair images of different
  prompts; here pairs share a prompt.

  Args:
    scores: [..., 2].
    label_prob: probability that the first is preferred; ties need one half
      (`ties="half"`).
    ratings: of both images; above `good` they are good.
    mask: pairs that count.
    margin: m.
    good: rating above which an image is good.
    tie_weight: of pairs of two good images.
  """
  d, p, counts = answered(scores, label_prob, mask)
  is_good = jnp.asarray(ratings) > good
  both_good = is_good.all(-1)
  first, second = jax.nn.softplus(margin - d), jax.nn.softplus(margin + d)
  loss = jnp.where(
    both_good, tie_weight * (first + second), p * first + (1 - p) * second
  )
  return Mean.of(loss, counts & (both_good | (is_good.any(-1) & (p != 0.5))))


def best_of_row(row_scores: Row, row_ratings: Row) -> Mean:
  """-log softmax(s) of the best image of a row; the mean over tied best ones.

  One choice among K images instead of their pairs (You Only Judge Once,
  https://arxiv.org/abs/2604.10966). For two images it is Bradley-Terry.

  Args:
    row_scores: of all images of a row.
    row_ratings: of the images; unrated ones are excluded.
  """
  is_rated = jnp.isfinite(row_ratings)
  rating = jnp.where(is_rated, row_ratings, -jnp.inf)
  best = is_rated & (rating == rating.max(-1, keepdims=True))
  low = jnp.where(is_rated, jnp.asarray(row_scores, jnp.float32), -1e30)
  log_p = jax.nn.log_softmax(low, -1)
  share = best / jnp.maximum(best.sum(-1, keepdims=True), 1)
  loss = -jnp.where(best, share * log_p, 0.0).sum(-1)
  return Mean.of(loss, (is_rated & ~best).any(-1))


def ranked_plackett_luce(row_scores: Row, row_ratings: Row) -> Mean:
  """`plackett_luce` in order of a row's ratings, with Efron's ties (1977).

  m images of equal rating are chosen one after the other; once j of them are
  chosen, a share j / m of their weight is removed: the order of equal images
  carries no information, and a row of equal ratings pulls its scores together.

  Args:
    row_scores: of all images of a row.
    row_ratings: of the images; unrated ones are excluded.
  """
  rating = jnp.asarray(row_ratings)
  is_rated = jnp.isfinite(rating)
  scores = jnp.where(is_rated, jnp.asarray(row_scores, jnp.float32), 0.0)
  below = is_rated[:, None] & (rating[:, None] < rating[:, :, None])
  equal = is_rated[:, None] & (rating[:, None] == rating[:, :, None])
  log_sum = lambda mask: jax.nn.logsumexp(
    jnp.where(mask, scores[:, None], -1e30), -1
  )
  before = jnp.tril(equal, -1).sum(-1) / jnp.maximum(equal.sum(-1), 1)
  left = jnp.logaddexp(log_sum(below), log_sum(equal) + jnp.log1p(-before))
  loss = jnp.where(is_rated, left - scores, 0.0).sum(-1)
  return Mean.of(loss, is_rated.sum(-1) >= 2)


def level_of(ratings: Float[ArrayLike, "*B"], levels: int) -> Array:
  """0 ... levels - 1, equal parts of the ratings' range [0, 1]; 0 for NaN."""
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
  each image's grade is restricted to the part of the scale that contains its
  rating (region flooding of OPRM, https://arxiv.org/abs/2602.12660); if that
  contradicts the label, or without a rating, the whole scale counts. Ties count
  half as either label, which the authors do not specify.

  Args:
    log_probs: of K grades, for both images.
    label_prob: probability that the first is preferred; NaN if unlabeled.
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
    region_of = level_of((jnp.arange(grades) + 0.5) / grades, regions)
    is_rated = jnp.isfinite(jnp.asarray(ratings))
    region = level_of(ratings, regions)
    inside = (region[..., None] == region_of) | ~is_rated[..., None]
    allowed = inside[..., 0, :, None] & inside[..., 1, None, :]

  def log_p(cells: Array) -> Array:
    region_cells = cells & allowed
    cells = jnp.where(
      region_cells.any((-2, -1), keepdims=True), region_cells, cells
    )
    return jax.nn.logsumexp(jnp.where(cells, joint, -1e30), (-2, -1))

  loss = -p * log_p(higher) - (1 - p) * log_p(higher.T)
  return Mean.of(loss, counts)


def corn(row_logits: Float[ArrayLike, "R K J"], row_ratings: Row) -> Mean:
  """Conditional ordinal regression: is the grade above k, given it is k or more?

  Binary cross-entropy of each of J thresholds, over the images that reach it
  (Shi et al., 2021, https://arxiv.org/abs/2111.08851), for VEFX-Bench's head;
  that its authors train with this loss is unverified.

  Args:
    row_logits: of the J thresholds between J + 1 grades.
    row_ratings: of the images; unrated ones are excluded.
  """
  logits = jnp.asarray(row_logits, jnp.float32)
  steps = jnp.arange(logits.shape[-1])
  grade = level_of(row_ratings, logits.shape[-1] + 1)[..., None]
  above = grade > steps
  loss = jax.nn.softplus(jnp.where(above, -logits, logits))
  reached = jnp.isfinite(row_ratings)[..., None] & (grade >= steps)
  return Mean.of(loss, reached)
