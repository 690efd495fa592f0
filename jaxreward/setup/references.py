"""Scores of the initial policy, for compositions that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import methods, processes
from jaxreward.rewards import Reward, score
from jaxreward.setup import align_methods
from jaxreward.types import Array, PromptBatch

ITERATION = 2**31 - 1  # noise of its own, not that of any iteration


def are_wanted(config: ConfigDict) -> bool:
  """Whether the config's composition takes `references`."""
  compose = align_methods.bind_methods(config)["compose"]
  return bool(methods.named(compose, references=None))


class References:
  """Scores of a group of samples per prompt, from the initial policy.

  Sampled when a prompt first occurs, and cached: G numbers per prompt and reward.
  The noise depends on the prompt alone, so that a resumed run samples the same
  group again and nothing has to be saved.

  Args:
    draw: P prompts -> images [P, G, H, W, C] of that policy.
    rewards: that are trained on.
  """

  def __init__(
    self,
    draw: Callable[[PromptBatch], Array],
    rewards: Mapping[str, Reward],
  ):
    self._draw, self._rewards = draw, rewards
    self._cache: dict[int, dict[str, np.ndarray]] = {}

  def __call__(self, batch: PromptBatch) -> dict[str, np.ndarray]:
    """{name: float32 [P, G]}, NaN where a reward failed."""
    ids = [int(i) for i in processes.fetch(batch.ids)]
    if not all(i in self._cache for i in ids):
      images = self._draw(batch)
      usable = jnp.isfinite(images).all((2, 3, 4))
      scores = processes.fetch({
        name: jnp.where(usable, value, jnp.nan)
        for name, value in score(self._rewards, images, batch)[0].items()
      })  # fmt: skip
      for p, i in enumerate(ids):
        self._cache[i] = {k: np.asarray(v[p]) for k, v in scores.items()}
    names = self._cache[ids[0]]
    return {k: np.stack([self._cache[i][k] for i in ids]) for k in names}
