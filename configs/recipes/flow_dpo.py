"""Flow-DPO, online: the best of each group against its worst.

Liu et al. 2025 (https://arxiv.org/abs/2501.13918), in the online form of the
Flow-GRPO code: both share noise and time, beta 100. There times are drawn from
a logit-normal; here they are stratified and shifted, and a group of equal rewards
makes no pair.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="flow_dpo", beta=100.0)
  config.align.pairs = 1
  return config
