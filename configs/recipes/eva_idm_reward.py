"""EVA: videos are rewarded for motion that a robot could carry out.

https://arxiv.org/abs/2603.17808, read in the abstract: an inverse dynamics model reads
joints from videos of a world model, and smoothness and limits are the reward of GRPO.
The form of the reward is unverified. Here the path of what stands out in the frames is
judged (`rewards.motion`), of Wan 2.1. Without its weights, a tiny model with random
weights stands in: it shows that the recipe runs and teaches nothing.
"""

from jaxreward import config as config_lib
from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Wan 2.1 of 1.3B."""
  size = recipes.size_of(arg)
  small = "" if size == "full" else ",tiny"
  spec = f"../align_public.py:wan_t2v,objective=flow_grpo{small}"
  config = config_lib.load_sibling(spec, __file__)
  config.rewards = dict(motion=dict(fn="executable", weight=1.0, fps=8.0))
  config.video.frames = 9 if size == "full" else 5
  if size != "full":
    config.align.iterations = 4 if size == "smoke" else 50
  return config
