"""Rewards of what a group has drawn several times are discounted."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  require,
  safe_of,
  several,
  valid_of,
)
from jaxreward.errors import UserError, require_not_negative
from jaxreward.models.vision.preprocess import small_features
from jaxreward.types import Array, ArrayLike


def novel_sum(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  images: Float[ArrayLike, "P G H W C"],
  of: Any = (),
  least: float | None = None,
  similarity: float = 0.99,
  power: float = 3.0,
) -> Signal:
  """Weighted sum in which a reward is worth less, the more often an image is there.

  R = sum_k w_k r_k [r_k > least] / N^power over the rewards `of`, and w_k r_k of the
  others, with N the near-duplicates of the sample in its group, itself among them:
  images whose features have a cosine of at least `similarity`.
  ONI, Zheng et al. 2024, https://arxiv.org/abs/2410.23022, read in the authors' code,
  where N counts a message of an episode, r has its running mean and deviation
  removed, least -.5 and power 3. Features, images of 8 x 8 pixels less their mean, and
  `similarity` are an adaptation.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    images: the samples, in [0, 1].
    of: names of the rewards that are discounted; all if empty.
    least: those of them that are not above it are 0; None for no bound.
    similarity: cosine from which images are near-duplicates.
    power: of N.

  Returns:
    (signal, mask) as in `weighted_sum`.

  Raises:
    UserError: names that are not rewards, a similarity outside (-1, 1], or a
      negative power.
  """
  require_not_negative("composition.", power=power)
  if not -1 < similarity <= 1:
    raise UserError(
      f"config.composition.similarity={similarity}: a cosine, above -1 and at most 1"
    )
  terms = several(of) if of else tuple(weights)
  for name in terms:
    require(name, weights, "of")
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  share = duplicates(small_features(images), mask, similarity) ** -power
  total = jnp.zeros(mask.shape, jnp.float32)
  for name in weights:
    value = safe[name]
    if name in terms:
      amount = value if least is None else jnp.where(value > least, value, 0.0)
      value = amount * share
    total = total + weights[name] * value
  return jnp.where(mask, total, 0.0), mask


def duplicates(
  features: Float[ArrayLike, "P G D"],
  mask: Bool[ArrayLike, "P G"],
  similarity: float,
) -> Float[Array, "P G"]:
  """How often a sample is in its group: valid ones as similar, and itself."""
  features, mask = jnp.asarray(features), jnp.asarray(mask)
  cosine = jnp.einsum("pid,pjd->pij", features, features, precision="highest")
  # Of a sample with itself it is 1 but for rounding.
  is_itself = jnp.eye(features.shape[1], dtype=bool)
  alike = (cosine > similarity - 1e-6) & mask[:, None, :]
  return jnp.sum(alike | is_itself, axis=-1, dtype=jnp.float32)
