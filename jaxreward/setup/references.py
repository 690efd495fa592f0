"""Scores of the policy where training began, for compositions that take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import methods, processes
from jaxreward.rewards import Reward, score
from jaxreward.setup import align_methods
from jaxreward.types import Array, PromptBatch

ITERATION = 2**31 - 1  # whose noise no iteration of a run has


def are_wanted(config: ConfigDict) -> bool:
  """Whether the config's composition takes `references`."""
  compose = align_methods.bind_methods(config)["compose"]
  return bool(methods.named(compose, references=None))


class References:
  """Scores of a group of each prompt, from the policy where training began.

  They are drawn when a prompt is first met, and kept in memory: G numbers for
  each prompt and reward. Draws belong to the prompt, so that a run that is resumed
  draws the same ones again and nothing has to be saved.

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
    self._known: dict[int, dict[str, np.ndarray]] = {}

  def __call__(self, batch: PromptBatch) -> dict[str, np.ndarray]:
    """{name: float32 [P, G]}, NaN where a reward failed."""
    ids = [int(i) for i in processes.fetch(batch.ids)]
    if not all(i in self._known for i in ids):
      images = self._draw(batch)
      usable = jnp.isfinite(images).all((2, 3, 4))
      scores = processes.fetch({
        name: jnp.where(usable, value, jnp.nan)
        for name, value in score(self._rewards, images, batch)[0].items()
      })  # fmt: skip
      for p, i in enumerate(ids):
        self._known[i] = {k: np.asarray(v[p]) for k, v in scores.items()}
    names = self._known[ids[0]]
    return {k: np.stack([self._known[i][k] for i in ids]) for k in names}
