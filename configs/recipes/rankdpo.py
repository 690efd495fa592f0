"""RankDPO: all ordered pairs of a group, weighed by what a swap would cost.

Karthik et al. 2024, https://arxiv.org/abs/2410.18013. Labels are the shares of won
comparisons, averaged over the rewards; the authors label pictures of several models
beforehand (Syn-Pic), here they are the policy's own, and beta is that of
Flow-GRPO's code for pairs.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="rank_dpo", beta=100.0)
  recipes.reward_with(config, arg, task=0.5, look=0.5)
  config.composition = dict(name="win_rate")
  config.advantage = dict(name="given")
  return config
