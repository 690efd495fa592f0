"""Pairwise RL: the reward of a sample is its probability of beating another.

Xu et al. 2025, https://arxiv.org/abs/2504.04950, of answers in words there. Both orders
are asked and averaged, `(p12 + 1 - p21) / 2`, so that the two probabilities of a pair sum
to one and its advantages to zero. A tiny model with random weights stands in for the judge
on scenes.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.rollout.group = 2
  config.advantage = dict(name="group", std="none")
  recipes.judge_with(config, arg, judge=dict(fn="vlm_pairwise", swap=True))
  return config
