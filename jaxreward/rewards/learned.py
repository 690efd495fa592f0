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
    self, params: Params, images: Any, tokens: ArrayLike, **options: Any
  ) -> tuple[Array, Array | None]: ...


@declare(takes_frames=True)
def learned(
  images: Float[ArrayLike, "P G *F H W C"],
  prompts: PromptBatch,
  *,
  params: Params,
  scorer: Scorer,
  mean: float | Array = 0.0,
  std: float | Array = 1.0,
  text: Int[ArrayLike, "P L"] | None = None,
  time: float | None = None,
) -> Scores:
  """(score - mean) / std: a z-score over the policy's held-out images.

  It comes with a standard deviation if the model's head predicts one.

  Args:
    images: in [0, 1], or frames of clips; one with a value that is not finite
      scores NaN, and no other image is compared with it.
    prompts: P prompts; a model of edits reads their sources.
    params: of the scorer.
    scorer: the model.
    mean: of the scores of the base policy's held-out images.
    std: their standard deviation.
    text: the prompts' token ids; None for a model that reads their `tokens`.
    time: noise level in [0, 1] at which a model on the policy's trunk reads the
      images; its own if None.
  """
  images = jnp.asarray(images)
  axes = tuple(range(2, images.ndim))
  usable = jnp.isfinite(images).all(axes)
  safe = jnp.where(jnp.expand_dims(usable, axes), images, 0.0)
  tokens = prompts.tokens if text is None else text
  # A head that compares the images of a group leaves out those that are not there.
  options: dict[str, Any] = {"details": {"mask": usable}}
  if getattr(scorer, "context", False):
    options["context"] = prompts.source
  if time is not None:
    options["time"] = jnp.full((images.shape[0],), time)
  scores, uncertainty = scorer.score_groups(
    params, safe, jnp.asarray(tokens), **options
  )
  std = jnp.maximum(std, 1e-6)
  masked = lambda x: jnp.where(usable, x, jnp.nan)
  return Scores(
    masked((scores - mean) / std),
    None if uncertainty is None else masked(uncertainty / std),
  )
