"""EVA: videos are rewarded for motion that a robot could carry out.

https://arxiv.org/abs/2603.17808, read in the abstract: an inverse dynamics model reads
joints from videos of a world model, and smoothness and limits are the reward of GRPO.
The form of the reward is unverified. Here the path of what stands out in the frames is
judged (`rewards.motion`), of Wan 2.1. Without its weights, a tiny model with random
weights stands in: it shows that the recipe runs and teaches nothing.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Wan 2.1 of 1.3B."""
  config = recipes.of_motion("flow_grpo", arg, __file__)
  config.rewards = dict(motion=dict(fn="executable", weight=1.0, fps=8.0))
  return config
