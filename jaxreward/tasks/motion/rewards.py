"""Rewards of moving scenes: a video judged against its prompt."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.rewards.contract import declare
from jaxreward.tasks.motion import judge
from jaxreward.types import Array, ArrayLike, PromptBatch


def _part(name: str, part: str, text: str):
  """The reward for one part of the verdict, see `judge.look`."""

  @declare(takes_verdict=True, takes_frames=True)
  def reward(
    images: Float[ArrayLike, "P G *frames"],
    prompts: PromptBatch,
    *,
    verdict: Mapping[str, ArrayLike] | None = None,
  ) -> dict[str, Float[Array, "P G"]]:
    images = jnp.asarray(images)
    usable = jnp.isfinite(images).all(tuple(range(2, images.ndim)))
    parts = judge.groups(images, prompts) if verdict is None else verdict
    return {name: jnp.where(usable, jnp.asarray(parts[part]), jnp.nan)}

  reward.__name__, reward.__doc__ = name, text
  return reward


REGISTRY = {
  "moves": _part(
    "moves", "dense",
    "Share of the objects asked for, times how near they stay to a path of their"
    " motion, in [0, 1].",
  ),
  "acts": _part(
    "acts", "acts",
    "How near the displacement from each frame to the next is to the asked one, in"
    " [0, 1]: inverse dynamics.",
  ),
  "physical": _part(
    "physical", "physical",
    "How near objects stay to some physical path, keeping colour and shape, in"
    " [0, 1], whatever motion is asked for.",
  ),
  # To be held out: binary verdicts; the rewards above are graded versions.
  "moved": _part(
    "moved", "strict",
    "1 if objects and motions are as asked, and nothing else is there.",
  ),
  "possible": _part(
    "possible", "possible", "1 if every motion is physical, else 0."
  ),
}  # fmt: skip
