"""Flow-DPO, online: the best of each group against its worst.

Liu et al. 2025 (https://arxiv.org/abs/2501.13918), in the online form of the
Flow-GRPO code: both share noise and time, beta 100. There times are drawn from
a logit-normal; here they are stratified and shifted, and a group of equal rewards
makes no pair.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="flow_dpo", beta=100.0)
  config.regularizers = dict()
  config.align.pairs = 1
  if recipes.size_of(arg) != "full":
    config.optimizer.learning_rate = 5e-5  # pairs pull all one way
  return config
