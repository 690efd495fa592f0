"""Percentiles: a sample is worth its place among those of the initial policy.

Quantile rewards as in QRPO, https://arxiv.org/abs/2507.08068, without its loss: the
order alone counts, and nothing is to be had beyond the best reference. The references
are a group per prompt, drawn when it is met for the first time, and kept.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.5)
  config.composition = dict(name="percentile_sum")
  return config
