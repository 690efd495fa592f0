"""Mixed-grained rewards: one of the whole, and the mean of those of its parts.

Wang et al. 2025, https://arxiv.org/abs/2506.09084, of a page and its items there. A
part's reward goes to its own tokens there, and here to the whole sample. The weight of
the parts is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.5, bytes=0.1)
  config.composition = dict(name="whole_and_parts", whole="task")
  return config
