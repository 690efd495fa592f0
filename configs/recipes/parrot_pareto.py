"""Parrot: only samples that no other beats on every reward are learned from.

Lee et al. 2024, https://arxiv.org/abs/2401.05675, among the samples of a prompt,
where the paper compares a batch (`composition.among`); its tokens for single rewards
and the expansion of prompts are not part of this.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.5, bytes=0.1)
  config.composition = dict(name="pareto")
  config.advantage = dict(name="given", clip=5.0)
  return config
