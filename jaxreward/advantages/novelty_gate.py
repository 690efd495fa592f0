"""GARDO: credit for diverse samples, and a gate for over-rated ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.contract import Advantage, Sizes
from jaxreward.errors import UserError
from jaxreward.models.vision.preprocess import small_features
from jaxreward.numerics import masked_mean
from jaxreward.types import Array, ArrayLike

HISTORY = 20  # iterations in the history of the share


@flax.struct.dataclass
class Gate:
  """State of the adaptive share of gated samples.

  Attributes:
    share: float32, of the over-rated samples that are gated.
    means: float32 [20], ring of their mean disagreement.
    count: int32, iterations so far.
  """

  share: ArrayLike
  means: ArrayLike
  count: ArrayLike


def gardo(
  *, share: float = 0.1, least: float = 0.02, most: float = 0.2
) -> Advantage:
  """GARDO: diverse samples get more credit, over-rated ones are gated.

  A_i = (r_i - mean r) (d_i / mean d if r_i >= mean r else 1) in each group, with
  d_i the distance 1 - cos to the nearest other image, and no division by the
  spread. It gives "gate", for `gated_step_kl`: samples whose signal ranks higher
  in the iteration than its auxiliaries do, the rewards of weight 0,
    U_i = mean rank of the auxiliaries - rank of the signal, rank 1 the best,
  are gated above the quantile 1 - share of the U >= 0. The share is multiplied by
  1.1 when the mean of these U exceeds that of the last 20 iterations, by 0.9 when
  it falls below, within [least, most]. Nothing gated is no KL.
  He et al. 2025, https://arxiv.org/abs/2512.24138. The authors' code has the other
  sign of U, against the paper's intent, and distances of DINOv3 features; here
  they are of images of 8 x 8 pixels, less their mean.

  Args:
    share: of the samples with U >= 0 that are gated at first.
    least: smallest share.
    most: largest share; 1 gates them all.

  Raises:
    UserError: values outside [0, 1], or in the wrong order.
  """
  if not 0 <= least <= share <= most <= 1:
    raise UserError(
      f"config.advantage.share={share}: 0 <= least <= share <= most <= 1 is"
      f" needed, with least={least} and most={most}"
    )

  def init(sizes: Sizes) -> Gate:
    del sizes
    means = jnp.zeros(HISTORY, jnp.float32)
    return Gate(jnp.float32(share), means, jnp.int32(0))

  def update(
    signal: Float[ArrayLike, "P G"],
    mask: Bool[ArrayLike, "P G"],
    unweighted: Mapping[str, ArrayLike],
    images: Float[ArrayLike, "P G H W C"],
    state: Gate,
  ) -> tuple[Any, Gate]:
    novelty = nearest_distances(small_features(images), mask)
    advantage = diverse(signal, mask, novelty)
    over = over_rated(signal, mask, unweighted)
    gate = gated(over, mask, state.share)
    state = adapted(state, over, mask, least, most)
    return (advantage, {"gate": gate_weights(gate, mask)}), state

  return Advantage(init, update, gives=("gate",))


def nearest_distances(
  features: Float[ArrayLike, "P G D"], mask: Bool[ArrayLike, "P G"]
) -> Float[Array, "P G"]:
  """1 - cos to the nearest other valid sample of the group; 0 without one."""
  features = jnp.asarray(features)
  cosine = jnp.einsum("pid,pjd->pij", features, features, precision="highest")
  distance = jnp.clip(1 - cosine, 0.0, 2.0)
  others = jnp.asarray(mask)[:, None, :] & ~jnp.eye(
    features.shape[1], dtype=bool
  )
  least = jnp.min(distance, axis=-1, where=others, initial=jnp.inf)
  return jnp.where(others.any(-1) & jnp.asarray(mask), least, 0.0)


def diverse(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  novelty: Float[ArrayLike, "P G"],
) -> Float[Array, "P G"]:
  """(r - mean r), times novelty / mean novelty where it is not negative."""
  mean = masked_mean(signal, mask, axis=1, keepdims=True)
  scale = masked_mean(novelty, mask, axis=1, keepdims=True)
  factor = jnp.where(scale > 0, novelty / jnp.where(scale > 0, scale, 1.0), 1.0)
  centred = signal - mean
  return jnp.where(mask, centred * jnp.where(centred >= 0, factor, 1.0), 0.0)


def over_rated(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  auxiliaries: Mapping[str, ArrayLike],
) -> Float[Array, "P G"]:
  """U: by how many ranks the signal exceeds its auxiliaries; 0 without any."""
  if not auxiliaries:
    return jnp.zeros(jnp.shape(signal))
  ranks = [_ranks(score, mask) for score in auxiliaries.values()]
  return sum(ranks[1:], ranks[0]) / len(ranks) - _ranks(signal, mask)


def gated(
  over: Float[ArrayLike, "P G"], mask: Bool[ArrayLike, "P G"], share: ArrayLike
) -> Bool[Array, "P G"]:
  """Samples above the quantile 1 - share of the U >= 0; all of these at 1."""
  is_candidate = jnp.asarray(mask) & (over >= 0)
  values = jnp.sort(jnp.where(is_candidate, over, jnp.inf).ravel())
  last = jnp.maximum(is_candidate.sum() - 1, 0)
  place = (1 - share) * last
  low = jnp.floor(place).astype(jnp.int32)
  high = jnp.minimum(low + 1, last)
  threshold = values[low] + (place - low) * jnp.where(
    high > low, values[high] - values[low], 0.0
  )
  return is_candidate & ((over > threshold) | (share >= 1)) & (share > 0)


def gate_weights(
  gate: Bool[ArrayLike, "P G"], mask: Bool[ArrayLike, "P G"]
) -> Float[Array, "P G"]:
  """Weights that turn a mean over all samples into one over the gated."""
  count = jnp.maximum(jnp.sum(gate), 1)
  return jnp.where(gate, jnp.sum(mask) / count, 0.0)


def adapted(
  state: Gate, over: ArrayLike, mask: ArrayLike, least: float, most: float
) -> Gate:
  """The share after an iteration, and the ring with its mean."""
  mean = masked_mean(over, jnp.asarray(mask) & (over >= 0))
  is_filled = jnp.arange(HISTORY) < state.count
  means = jnp.asarray(state.means)
  top = jnp.max(means, where=is_filled, initial=-jnp.inf)
  low = jnp.min(means, where=is_filled, initial=jnp.inf)
  has_history = is_filled.any()
  factor = jnp.where(has_history & (mean > top), 1.1, 1.0)
  factor = jnp.where(has_history & (mean < low), 0.9, factor)
  share = jnp.clip(state.share * factor, least, most).astype(jnp.float32)
  means = means.at[jnp.asarray(state.count) % HISTORY].set(mean)
  return Gate(share, means, jnp.asarray(state.count) + 1)


def _ranks(score: ArrayLike, mask: ArrayLike) -> Array:
  """Rank among all valid samples, 1 the best; ties share the mean of theirs."""
  mask = jnp.asarray(mask)
  x = jnp.where(mask, score, -jnp.inf).ravel()
  ordered = jnp.sort(-x)
  first = jnp.searchsorted(ordered, -x, side="left")
  last = jnp.searchsorted(ordered, -x, side="right")
  return ((first + last + 1) / 2).reshape(mask.shape)
