"""EVPV: a score is attenuated where what it rests on is not there.

Wang et al. 2026, https://arxiv.org/abs/2603.16253, of a reasoner's steps there. Here
the task is what the look of a picture rests on: a beautiful picture of something else
earns little. The shape of the gate is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(name="tempered", reliability="task")
  return config
