"""GRPO-CARE: of the good samples, those that are also consistent get more.

Chen et al. 2025, https://arxiv.org/abs/2506.16141, of answers there, whose
consistency is how likely they are to a slow average of the policy, in the place of a
KL; here it is the second reward of the run.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(
    name="bonus_if_consistent", base="task", consistency="look"
  )
  config.regularizers = dict()
  return config
