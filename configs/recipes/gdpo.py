"""GDPO: each reward by its own group's deviation, then whitened over the batch.

Liu et al. 2026, https://arxiv.org/abs/2601.05242. Sums that are equal come from
different rewards: normalised apart they stay apart. A score that failed is masked,
where the authors' port to TRL counts it as 0.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(name="gdpo", epsilon=1e-4, sample_std=True)
  config.advantage = dict(name="group", std="none", clip=5.0)
  return config
