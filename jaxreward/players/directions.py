"""A direction in a reward's text features that takes up what it likes anyway."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_counts
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player
from jaxreward.types import Array, ArrayLike, Params


def bias_direction(*, reward: str, width: int, strength: float = 1.5) -> Player:
  """b, such that the guided score of the policy's images is largest (D2-Align).

  L = -mean R_b(image), R_b the reward with the text features e replaced by
  e- + strength (e+ - e-), e+- = unit(e +- b). What the reward likes in any image goes
  into b while the policy is held (`align.hold_policy`); b stays from then on
  (`until`), and the loss follows R_b, of which the policy's images have more than of R:
  less is left to gain from what all of them have in common. Reported scores of the
  reward are without b. Chen et al. 2025,
  https://arxiv.org/abs/2512.24146, of HPSv2.1: strength 1.5 and some 2,000 steps; the
  start at 0 is unverified, and no code is public.

  Args:
    reward: the config's name of a reward that compares images with texts by features:
      a published pair, or "learned" with towers and the head "similarity".
    width: of these features.
    strength: 1 is e+ alone; above it the guided text lies beyond.

  Raises:
    UserError: no features, or a reward without a name.
  """
  require_counts("", width=width)
  if not reward:
    raise UserError('reward="": name a reward of config.rewards')

  def tune(params: Params, own: Params) -> Params:
    leaf = {"vector": own["vector"], "strength": jnp.float32(strength)}
    if "backbone" in params:
      backbone = {**params["backbone"], "direction": leaf}
      return {**params, "backbone": backbone}
    return {**params, "direction": leaf}

  def guided(arrays: Arrays) -> Array:
    return arrays.score(arrays("image"), arrays("prompt_index"))

  return Player(
    lambda key, sizes: {"vector": jnp.zeros((width,))}, bias_gain,
    offers={"guided_score": guided}, reads=("image", "mask", "prompt_index"),
    tunes=reward, tune=tune, leads=True, rules=(("vector$", ()),),
  )  # fmt: skip


def bias_gain(
  guided_score: Float[ArrayLike, "B"], mask: Bool[ArrayLike, "B"]
) -> tuple[Mean, dict[str, Mean]]:
  """Minus the mean guided score."""
  return Mean.of(-jnp.where(mask, guided_score, 0.0), mask), {}
