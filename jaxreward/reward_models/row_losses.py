"""Losses of whole rows: aspects, stages, outcomes, references, other prompts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.numerics import Mean, largest
from jaxreward.reward_models.preference_losses import (
  Mask,
  Pairs,
  Prob,
  answered,
  bradley_terry,
)
from jaxreward.types import Array, ArrayLike

Row = Float[ArrayLike, "R K"]
Aspects = Float[ArrayLike, "R K A"]


def _squares(scores: ArrayLike, ratings: ArrayLike) -> Mean:
  """(score - rating)^2 where there is a rating."""
  is_rated = jnp.isfinite(jnp.asarray(ratings))
  error = jnp.asarray(scores, jnp.float32) - jnp.where(is_rated, ratings, 0.0)
  return Mean.of(jnp.square(jnp.where(is_rated, error, 0.0)), is_rated)


def regression(row_scores: Row, row_ratings: Row) -> Mean:
  """Mean squared error of the scores; unrated images are excluded."""
  return _squares(row_scores, row_ratings)


def binary(row_scores: Row, row_ratings: Row) -> Mean:
  """-y log sigmoid(s) - (1 - y) log sigmoid(-s), of each image by itself.

  The loss of DreamVideo-Omni's identity reward, of images that are good or bad.

  Args:
    row_scores: s.
    row_ratings: y in [0, 1]; NaN where unknown.
  """
  is_rated = jnp.isfinite(jnp.asarray(row_ratings))
  s = jnp.where(is_rated, jnp.asarray(row_scores, jnp.float32), 0.0)
  y = jnp.where(is_rated, row_ratings, 0.0)
  return Mean.of(jax.nn.softplus(s) - y * s, is_rated)


def _order(scores: Aspects, ratings: Aspects) -> Mean:
  """Bradley-Terry per aspect, over pairs of a row whose ratings differ."""
  ratings = jnp.asarray(ratings)
  gap = ratings[:, :, None] - ratings[:, None]
  scores = jnp.asarray(scores, jnp.float32)
  d = scores[:, :, None] - scores[:, None]
  counts = gap > 0
  return Mean.of(jax.nn.softplus(-jnp.where(counts, d, 0.0)), counts)


def _sum(*terms: tuple[float, Mean]) -> Mean:
  """The weighted sum of means, as a mean of weight 1."""
  total = sum(
    (weight * term.total / jnp.maximum(term.weight, 1e-12)
     for weight, term in terms),
    jnp.float32(0),
  )  # fmt: skip
  return Mean(jnp.asarray(total), jnp.ones(()))


def aspect_ratings_and_order(
  row_aspect_scores: Aspects,
  row_aspect_ratings: Aspects,
  *,
  order_weight: float = 1.0,
) -> Mean:
  """Squared error per aspect plus w times the Bradley-Terry loss per aspect.

  EditHF-1M (its training losses are unverified).

  Args:
    row_aspect_scores: of the images.
    row_aspect_ratings: NaN where unknown.
    order_weight: w, 0 or more.
  """
  if not order_weight >= 0:
    raise UserError(f"loss.order_weight={order_weight}: it must be 0 or more")
  return _sum(
    (1.0, _squares(row_aspect_scores, row_aspect_ratings)),
    (order_weight, _order(row_aspect_scores, row_aspect_ratings)),
  )


def aspect_answers(
  row_aspect_scores: Aspects, row_aspect_prob: Float[ArrayLike, "R K K A"]
) -> Mean:
  """Bradley-Terry per aspect, over pairs whose aspect has an answer.

  As VideoReward's dimensions (https://arxiv.org/abs/2501.13918), which models
  ties apart; here a tie is one half.

  Args:
    row_aspect_scores: of the images.
    row_aspect_prob: that the first is preferred; NaN where unknown.
  """
  scores = jnp.asarray(row_aspect_scores, jnp.float32)
  prob = jnp.asarray(row_aspect_prob)
  upper = jnp.triu(jnp.ones(prob.shape[1:3], bool), 1)[..., None]
  counts = jnp.isfinite(prob) & upper
  p = jnp.where(counts, prob, 0.5)
  d = jnp.where(counts, scores[:, :, None] - scores[:, None], 0.0)
  loss = p * jax.nn.softplus(-d) + (1 - p) * jax.nn.softplus(d)
  return Mean.of(loss, counts)


def mixed_experts(
  scores: Pairs,
  label_prob: Prob,
  row_scores: Row,
  row_ratings: Row,
  row_criteria: Float[ArrayLike, "R K C"],
  row_aspect_scores: Aspects,
  aspect_weights: Float[ArrayLike, "R A"],
  membership: Float[ArrayLike, "R C A"],
  row_aspect_ratings: Float[ArrayLike, "R K C"],
  mask: Mask = None,
  *,
  criteria_weight: float = 0.3,
  aspect_weight: float = 0.3,
  gate_weight: float = 0.3,
) -> Mean:
  """Overall preference and rating, with terms of aspects, criteria and gates.

  BT(s) + MSE(s) + 0.3 MSE(c) + 0.3 (0.3 MSE(c) + MSE(S) + BT(S)) + 0.3 gate,
  gate = -sum over aspects without a label of log(1 - v + 1e-5): the third stage
  of MJ-VIDEO (https://arxiv.org/abs/2502.01719), from the start. An aspect's
  rating is the mean of its rated criteria.

  Args:
    scores: of pairs.
    label_prob: that the first is preferred.
    row_scores: of the images.
    row_ratings: overall, of the images.
    row_criteria: c, criterion by criterion as the aspects of the data.
    row_aspect_scores: S.
    aspect_weights: v.
    membership: 1 where a criterion belongs to an aspect.
    row_aspect_ratings: of the criteria; NaN where unknown.
    mask: pairs that count.
    criteria_weight: of MSE(c), twice.
    aspect_weight: of the terms of the aspects.
    gate_weight: of the gate.
  """
  if jnp.shape(row_aspect_ratings)[-1] != jnp.shape(row_criteria)[-1]:
    raise UserError(
      f"loss: {jnp.shape(row_criteria)[-1]} criteria in reward_model.head.sizes,"
      f" and {jnp.shape(row_aspect_ratings)[-1]} aspects in the data"
    )
  ratings, v = jnp.asarray(row_aspect_ratings), jnp.asarray(aspect_weights)
  is_rated = jnp.isfinite(ratings)
  total = jnp.einsum(
    "rkc,rca->rka", jnp.where(is_rated, ratings, 0), membership
  )
  count = jnp.einsum("rkc,rca->rka", is_rated.astype(jnp.float32), membership)
  of_aspect = jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
  unlabeled = (count > 0).sum(1) == 0
  gate = -jnp.where(unlabeled, jnp.log(1 - v + 1e-5), 0.0).sum(-1)
  criteria = _squares(row_criteria, ratings)
  return _sum(
    (1.0, bradley_terry(scores, label_prob, mask)),
    (1.0, regression(row_scores, row_ratings)),
    (criteria_weight * (1 + aspect_weight), criteria),
    (aspect_weight, _squares(row_aspect_scores, of_aspect)),
    (aspect_weight, _order(row_aspect_scores, of_aspect)),
    (gate_weight, Mean.of(gate)),
  )


def stage_and_progress(
  row_stage_logits: Float[ArrayLike, "R K S"],
  row_progress: Row,
  stage_shares: Float[ArrayLike, "R S"],
  row_ratings: Row,
  *,
  progress_weight: float = 1.0,
) -> Mean:
  """Cross-entropy of the stage, and squared error of the progress within it.

  A rating y in [0, 1] is the whole progress: stage k with P_{k-1} <= y < P_k
  and tau = (y - P_{k-1}) / a_k (SARM, https://arxiv.org/abs/2509.25358; the
  terms' relative weight is unverified).

  Args:
    row_stage_logits: of the images.
    row_progress: predicted tau.
    stage_shares: a, mean shares of the stages.
    row_ratings: y; unrated images are excluded.
    progress_weight: of the second term.
  """
  shares = jnp.asarray(stage_shares)
  ends = jnp.cumsum(shares, -1)
  is_rated = jnp.isfinite(jnp.asarray(row_ratings))
  y = jnp.clip(jnp.where(is_rated, row_ratings, 0.0), 0, 1)
  stage = (y[..., None] >= ends[:, None, :-1]).sum(-1)
  start = jnp.take_along_axis(ends - shares, stage, -1)
  tau = (y - start) / jnp.take_along_axis(shares, stage, -1)
  log_p = jax.nn.log_softmax(jnp.asarray(row_stage_logits, jnp.float32), -1)
  loss = -jnp.take_along_axis(log_p, stage[..., None], -1)[..., 0]
  loss += progress_weight * jnp.square(row_progress - tau)
  return Mean.of(jnp.where(is_rated, loss, 0.0), is_rated)


def four_outcomes(
  pair_logits: Float[ArrayLike, "*B 4"],
  label_prob: Prob,
  ratings: Pairs,
  mask: Mask = None,
  *,
  good: float = 0.5,
) -> Mean:
  """Cross-entropy of: first better, second better, both good, both bad.

  A pair with an answer is one of the first two; a tie (`ties="half"`) one of
  the others by its mean rating (DesignSense,
  https://arxiv.org/abs/2602.23438). Ties without ratings are excluded.

  Args:
    pair_logits: in that order.
    label_prob: 1, 0, or one half for a tie.
    ratings: of both images.
    mask: pairs that count.
    good: mean rating above which a tie is good.
  """
  pair_logits = jnp.asarray(pair_logits, jnp.float32)
  _, p, counts = answered(pair_logits[..., :2], label_prob, mask)
  mean = jnp.asarray(ratings).mean(-1)
  tie = jnp.where(mean > good, 2, 3)
  label = jnp.where(p > 0.5, 0, jnp.where(p < 0.5, 1, tie))
  counts &= (p != 0.5) | jnp.isfinite(mean)
  log_p = jax.nn.log_softmax(jnp.where(counts[..., None], pair_logits, 0.0), -1)
  loss = -jnp.take_along_axis(log_p, label[..., None], -1)[..., 0]
  return Mean.of(loss, counts)


def same_policy(
  row_pair_scores: Float[ArrayLike, "R K K"],
  row_source: Int[ArrayLike, "R K"],
) -> Mean:
  """-log sigmoid(r(x, x') - r(x, y)), where x and x' share a source, y does not.

  POLAR, https://arxiv.org/abs/2507.05197: at the optimum r is the log-ratio of
  the policies' densities. Sources stand for policies.

  Args:
    row_pair_scores: r(reference, image).
    row_source: of the images; below 0 where there is none.
  """
  source = jnp.asarray(row_source)
  r = jnp.asarray(row_pair_scores, jnp.float32)
  same = source[:, :, None] == source[:, None]
  twin = same & ~jnp.eye(source.shape[1], dtype=bool)
  there = source >= 0
  twin &= there[:, :, None] & there[:, None]
  counts = twin[:, :, :, None] & (~same & there[:, None])[:, :, None, :]
  d = r[:, :, :, None] - r[:, :, None, :]
  return Mean.of(jax.nn.softplus(-jnp.where(counts, d, 0.0)), counts)


def _matched(row_cross: ArrayLike, row_prob: ArrayLike) -> tuple[Array, Array]:
  """(similarities [R, R] of each row's best image to prompts, rows that count)."""
  prob = jnp.asarray(row_prob)
  best = jnp.nansum(prob, -1).argmax(-1)
  cross = jnp.asarray(row_cross, jnp.float32)
  rows = jnp.take_along_axis(cross, best[:, None, None], 1)[:, 0]
  return rows, jnp.isfinite(prob).any((1, 2))


def hinge_matching(
  row_cross: Float[ArrayLike, "R K R"],
  row_prob: Float[ArrayLike, "R K K"],
  *,
  margin: float = 1.0,
  hardest: bool = False,
) -> Mean:
  """Max-margin ranking of prompts per image and of images per prompt.

  sum max(0, m - s_kk + s_kj) + sum max(0, m - s_kk + s_jk) over the other rows
  j of the batch, divided by their number; with `hardest`, only the worst. The
  best image of each row stands for it. Rows of one prompt count as different.

  Args:
    row_cross: similarity of each image to the prompt of each row.
    row_prob: labels of the row.
    margin: m (unverified), in units of the similarity.
    hardest: whether only the hardest negative counts.
  """
  if not margin > 0:
    raise UserError(f"loss.margin={margin}: it must be above 0")
  s, counts = _matched(row_cross, row_prob)
  other = ~jnp.eye(len(s), dtype=bool) & counts[:, None] & counts
  matching = jnp.diagonal(s)[:, None]
  loss = jnp.zeros(len(s))
  for costs in (margin - matching + s, margin - matching + s.T):
    costs = jnp.where(other, jax.nn.relu(costs), 0.0)
    loss += largest(costs, -1) if hardest else costs.sum(-1)
  if not hardest:
    loss = loss / jnp.maximum(other.sum(-1), 1)
  return Mean.of(loss, counts)


def contrastive(
  row_cross: Float[ArrayLike, "R K R"], row_prob: Float[ArrayLike, "R K K"]
) -> Mean:
  """InfoNCE in both directions between rows' best images and their prompts."""
  s, counts = _matched(row_cross, row_prob)
  low = jnp.where(counts[:, None] & counts, s, -1e30)
  loss = -sum(
    jnp.diagonal(jax.nn.log_softmax(x, -1)) for x in (low, low.T)
  ) / 2  # fmt: skip
  return Mean.of(jnp.where(counts, loss, 0.0), counts)
