"""Credit that a reward's own doubt, or its view of single places, weighs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.contract import Advantage
from jaxreward.advantages.group import whitened
from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike

Signal = Float[ArrayLike, "P G"]
Mask = Bool[ArrayLike, "P G"]


def confident(
  signal: Signal,
  mask: Mask,
  stds: Mapping[str, ArrayLike],
  *,
  slope: float = 0.05,
  offset: float = 0.7,
  least: float = 1.0,
  most: float = 2.21,
  epsilon: float = 1e-4,
  clip: float = 10.0,
) -> Float[Array, "P G"]:
  """Less credit where the reward model is in doubt.

  A = w clip((r - mean r) / (std r + epsilon), -clip, clip) over the iteration,
  w = clip(exp(offset - slope u), least, most), with u the deviation that the reward
  gives, the largest of several. A weight on the credit is one on the clipped loss.
  PrefPaint, https://arxiv.org/abs/2410.21966, read in the authors' code: u is the
  length of the reward model's features in the metric of those it was trained on (the
  head "ellipsoid"); `most` never binds there, since u is 0 or above.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    stds: {name: u}, in the reward's units; u = 0 without any, and weight `least`
      where one is not finite.
    slope: of the exponent, per unit of u.
    offset: the exponent at u = 0.
    least: smallest weight.
    most: largest weight.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage before the weight.

  Returns:
    advantage, 0 where masked.

  Raises:
    UserError: weights in the wrong order.
  """
  if not 0 <= least <= most:
    raise UserError(
      f"config.advantage.least={least} and most={most}: expected"
      " 0 <= least <= most"
    )
  deviations = [jnp.asarray(std) for std in stds.values()]
  doubt = jnp.stack([jnp.zeros(jnp.shape(signal)), *deviations]).max(0)
  is_known = jnp.isfinite(doubt)
  weight = jnp.exp(offset - slope * jnp.where(is_known, doubt, 0.0))
  weight = jnp.where(is_known, jnp.clip(weight, least, most), least)
  return weight * whitened(signal, mask, epsilon=epsilon, clip=clip)


def regional(*, neutral: float = 0.5, signed: bool = False) -> Advantage:
  """Weights of places for `region_matching`: SRUM's map.

  With s the scores of places in [-1, 1], as a reward gives them for boxes,
  M = max(neutral, (s + 1) / 2) in boxes and neutral elsewhere, times the signal in
  [0, 1]: the whole counts as a factor. The mean over several rewards. So the
  released code, where a bad box is as good as none: nothing is ever repelled. With
  `signed` M = s in boxes, and bad ones are. The credit itself is 1.
  https://arxiv.org/abs/2510.12784, read in the authors' code.

  Args:
    neutral: weight of places that nobody judged.
    signed: whether bad places repel.

  Raises:
    UserError: a weight outside [0, 1].
  """
  if not 0 <= neutral <= 1:
    raise UserError(
      f"config.advantage.neutral={neutral}: expected a weight from 0 to 1"
    )

  def update(
    signal: Signal, mask: Mask, places: Mapping[str, ArrayLike], state: None
  ) -> tuple[Any, None]:
    valid = jnp.asarray(mask)
    whole = jnp.clip(jnp.where(valid, signal, 0.0), 0.0, 1.0)[..., None, None]
    maps = [place_weights(s, neutral, signed) for s in places.values()]
    if not maps:
      maps = [jnp.full((*valid.shape, 1, 1), neutral)]
    side = max((x.shape[2], x.shape[3]) for x in maps)
    maps = [resized(x, side) for x in maps]
    weight = whole * sum(maps[1:], maps[0]) / len(maps)
    ones = jnp.where(valid, 1.0, 0.0)
    return (ones, {"place_weight": weight}), state

  return Advantage(lambda sizes: None, update, maps=("place_weight",))


def place_weights(
  scores: Float[ArrayLike, "P G h w"], neutral: float, signed: bool
) -> Float[Array, "P G h w"]:
  """M of `regional` before the factor of the whole; NaN is a place unjudged."""
  scores = jnp.asarray(scores)
  inside = scores if signed else jnp.maximum((scores + 1) / 2, neutral)
  return jnp.where(jnp.isnan(scores), neutral, inside)


def resized(
  x: Float[ArrayLike, "P G a b"], side: tuple[int, int]
) -> Float[Array, "P G h w"]:
  """Bilinear, as the authors."""
  x = jnp.asarray(x)
  return jax.image.resize(x, (*x.shape[:2], *side), "linear")
