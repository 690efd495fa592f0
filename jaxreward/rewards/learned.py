"""A trained reward model as a reward."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models.vision.scene_reward import RewardModel
from jaxreward.rewards.contract import declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch


@declare()
def learned(
  images: Float[ArrayLike, "P G H W C"],
  prompts: PromptBatch,
  *,
  params: Params,
  scorer: RewardModel,
  mean: float | Array = 0.0,
  std: float | Array = 1.0,
) -> dict[str, Float[Array, "P G"]]:
  """(score - mean) / std: a z-score over the policy's held-out pictures.

  Args:
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P prompts.
    params: of the scorer.
    scorer: the architecture.
    mean: of the scores of the base policy's held-out pictures.
    std: their standard deviation.
  """
  images = jnp.asarray(images)
  usable = jnp.isfinite(images).all((2, 3, 4))
  safe = jnp.where(usable[:, :, None, None, None], images, 0.0)
  scores = scorer.score_groups(params, safe, jnp.asarray(prompts.tokens))
  scores = (scores - mean) / jnp.maximum(std, 1e-6)
  return {"learned": jnp.where(usable, scores, jnp.nan)}
