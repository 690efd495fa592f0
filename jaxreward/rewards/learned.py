"""A trained reward model as a reward."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.rewards.contract import Scores, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch


@runtime_checkable
class Scorer(Protocol):
  """What `reward_models.RewardModel` is to a reward."""

  def score_groups(
    self, params: Params, images: Any, tokens: ArrayLike
  ) -> tuple[Array, Array | None]: ...


@declare()
def learned(
  images: Float[ArrayLike, "P G H W C"],
  prompts: PromptBatch,
  *,
  params: Params,
  scorer: Scorer,
  mean: float | Array = 0.0,
  std: float | Array = 1.0,
  text: Int[ArrayLike, "P L"] | None = None,
) -> Scores:
  """(score - mean) / std: a z-score over the policy's held-out images.

  It comes with a standard deviation if the model's head predicts one.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    params: of the scorer.
    scorer: the model.
    mean: of the scores of the base policy's held-out images.
    std: their standard deviation.
    text: the prompts' token ids; None for a model that reads their `tokens`.
  """
  images = jnp.asarray(images)
  usable = jnp.isfinite(images).all((2, 3, 4))
  safe = jnp.where(usable[:, :, None, None, None], images, 0.0)
  tokens = prompts.tokens if text is None else text
  scores, uncertainty = scorer.score_groups(params, safe, jnp.asarray(tokens))
  std = jnp.maximum(std, 1e-6)
  masked = lambda x: jnp.where(usable, x, jnp.nan)
  return Scores(
    masked((scores - mean) / std),
    None if uncertainty is None else masked(uncertainty / std),
  )
