"""MRN: rewards are normalised in their group one by one, then added; no more.

Zhu et al. 2026, https://arxiv.org/abs/2601.06993, of text answers there: weights
of 1 and .1, variances over n - 1, no KL. GDPO whitens the sum over the batch as
well.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.1)
  config.composition = dict(name="advantage_sum", epsilon=1e-4, sample_std=True)
  config.advantage = dict(name="group", std="none")
  config.regularizers = dict()
  return config
