"""Shared by the compositions: masks, applicability and z-scores."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest, require_not_negative
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike

Scores = Mapping[str, Float[ArrayLike, "P G"]]
Masks = Mapping[str, Bool[ArrayLike, "P G"]] | Bool[ArrayLike, "P G"]
Weights = Mapping[str, float | int | ArrayLike]
Signal = tuple[Float[Array, "P G"], Bool[Array, "P G"]]


def mask_of(name: str, masks: Masks) -> Array:
  """Where a score is valid, [P, G]."""
  mask = masks[name] if isinstance(masks, Mapping) else masks
  return jnp.asarray(mask, bool)


def valid_of(scores: Scores, masks: Masks, weights: Weights) -> Array:
  """Where every weighted score is valid, [P, G].

  Raises:
    UserError: a weighted reward without a score, or no reward at all.
  """
  missing = sorted(set(weights) - set(scores))
  if missing or not weights:
    raise UserError(
      f"no score for the weighted reward(s) {', '.join(missing) or '(none)'}; "
      f"there are: {', '.join(sorted(scores))}."
    )
  valid = [
    mask_of(name, masks) & jnp.isfinite(scores[name]) for name in weights
  ]
  return functools.reduce(jnp.logical_and, valid)


def safe_of(
  scores: Scores, mask: Bool[ArrayLike, "P G"], weights: Weights
) -> dict[str, Array]:
  """The weighted scores, with 0 where the mask is False."""
  return {name: jnp.where(mask, scores[name], 0.0) for name in weights}


def applicable(name: str, weights: Weights, like: ArrayLike) -> Array:
  """Where a reward is applicable, [P, G]: its weight is not 0."""
  return jnp.broadcast_to(jnp.asarray(weights[name]) != 0, jnp.shape(like))


def require(name: str, weights: Weights, field: str) -> None:
  """Refuses a name that is not a reward.

  Raises:
    UserError: names the field and the rewards.
  """
  if name not in weights:
    raise UserError(
      f'config.composition.{field}: there is no reward "{name}"'
      f"{nearest(name, weights)} under config.rewards; there are"
      f" {', '.join(weights)}"
    )


def several(values: Any) -> tuple[Any, ...]:
  """A tuple of several values, of one, or of a comma-separated string."""
  if isinstance(values, str):
    return tuple(values.split(","))
  return tuple(values) if isinstance(values, Sequence) else (values,)


def order_of(order: Any, weights: Weights) -> tuple[str, ...]:
  """The names of `config.composition.order`, each reward once.

  Raises:
    UserError: names the order and the rewards.
  """
  order = several(order)
  if sorted(order) != sorted(weights):
    raise UserError(
      f"config.composition.order={order}: name every reward once; there are"
      f" {', '.join(weights)}"
    )
  return order


def group_score(
  score: Float[ArrayLike, "P G"],
  valid: Bool[ArrayLike, "P G"],
  epsilon: float,
  *,
  sample_std: bool = False,
) -> Float[Array, "P G"]:
  """Masked z-score along the group; exactly 0 for equal scores.

  Args:
    score: raw; anything where not valid.
    valid: samples that count.
    epsilon: added to the standard deviation.
    sample_std: whether variances are over n - 1.
  """
  require_not_negative("composition.", epsilon=epsilon)
  low = jnp.min(score, axis=1, keepdims=True, where=valid, initial=jnp.inf)
  # Relative to the smallest entry, so that equal scores are exact zeros.
  shifted = jnp.where(valid, score - jnp.where(valid, low, 0.0), 0.0)
  centred = shifted - masked_mean(shifted, valid, axis=1, keepdims=True)
  scale = masked_std(shifted, valid, axis=1, keepdims=True)
  if sample_std:
    count = jnp.sum(valid, axis=1, keepdims=True)
    scale = scale * jnp.sqrt(count / jnp.maximum(count - 1, 1))
  scale = scale + epsilon
  return jnp.where(valid, centred / jnp.where(scale > 0, scale, 1.0), 0.0)
