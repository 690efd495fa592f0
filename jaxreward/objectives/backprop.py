"""Objectives that differentiate the reward itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep
from jaxreward.types import ArrayLike


def align_prop(
  scores: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
  *,
  scale: float = 1.0,
) -> tuple[Mean, dict[str, Mean]]:
  """Reward backpropagation through the last K steps of the sampler.

  L = -scale mean r(x_0), with a gradient through r, the decoder and the last
  `align.last_steps` steps; latents before them are constants.
  DRaFT (all steps) and DRaFT-K (Clark et al. 2023, https://arxiv.org/abs/2309.17400,
  sections 4.1 and 4.2) and
  AlignProp (Prabhudesai et al. 2023, https://arxiv.org/abs/2310.03739) with a
  fixed K; the authors of AlignProp draw K for every update (`alignprop`).

  Args:
    scores: weighted sum of the rewards of each sample, differentiable.
    mask: False for padding, which may hold anything.
    scale: of the loss; .01 is published for AlignProp.

  Returns:
    (loss, metrics): tail_reward, the mean score.
  """
  (scores,) = keep(mask, scores)
  reward = Mean.of(scores, mask)
  return Mean(-scale * reward.total, reward.weight), {
    "tail_reward": jax.lax.stop_gradient(reward)
  }


def refl(
  scores: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
  *,
  margin: float = 2.0,
  scale: float = 1e-3,
) -> tuple[Mean, dict[str, Mean]]:
  """Reward feedback learning: the reward is followed up to a margin.

  L = scale mean relu(margin - r(x_0)): a sample above the margin has no gradient.
  ReFL (ImageReward), Xu et al. 2023, https://arxiv.org/abs/2304.05977, the loss of
  the authors' code; r is ImageReward there, with unit variance.

  Args:
    scores: weighted sum of the rewards of each sample, differentiable.
    mask: False for padding, which may hold anything.
    margin: a sample with a larger reward has no gradient.
    scale: of the loss.

  Returns:
    (loss, metrics): tail_reward, the mean score, and satisfied, the share of
    samples above the margin.
  """
  (scores,) = keep(mask, scores)
  loss = Mean.of(scale * jax.nn.relu(margin - scores), mask)
  metrics = {
    "tail_reward": Mean.of(scores, mask),
    "satisfied": Mean.of(jnp.asarray(scores >= margin), mask),
  }
  return loss, jax.lax.stop_gradient(metrics)
