"""UnifiedReward-Think: a judge thinks about two images, then says which is better.

Wang et al. 2025, https://arxiv.org/abs/2505.03318. The win rate in the group is read off
the probabilities of the two answers after a thought, in both orders; the authors take the
answer that is written. Without such weights, on scenes, a tiny model with random weights
stands in: it shows that the recipe runs and teaches nothing.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(
    fn="unified_reward_think", thoughts=1, opponents=2, pairs="random"
  )
  recipes.judge_with(config, arg, judge=judge)
  return config
