"""Pref-GRPO: a sample earns how often it beats the others of its group.

Wang et al. 2025, https://arxiv.org/abs/2508.20751, no KL, clip 1e-4. There a model
judges every pair of pictures (`judge_pairwise` asks one); here the scores of each
reward decide, and the weights are those of the authors' second reward, .6 and .4.
A group starts from one noise.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=0.6, look=0.4)
  config.composition = dict(name="win_rate")
  config.advantage = dict(name="group", std="group", clip=5.0)
  config.rollout.branch.update(members=config.rollout.group, steps=0)
  config.regularizers = dict()
  return config
