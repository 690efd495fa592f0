"""Objectives that differentiate the reward itself."""

from __future__ import annotations

import jax
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
  DRaFT-K (Clark et al. 2023, https://arxiv.org/abs/2309.17400, section 4.2) and
  AlignProp (Prabhudesai et al. 2023, https://arxiv.org/abs/2310.03739) with a
  fixed K; the authors of AlignProp draw K anew in every update (`alignprop`).

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
