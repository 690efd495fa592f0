"""Zoom-Zero: each reward teaches the part of the chain that decides it.

Shen et al. 2025, https://arxiv.org/abs/2512.14273, of tokens that locate and tokens that
answer. Here what the words ask for teaches the steps near noise and how the image looks
those near data; the boundary is chosen here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.advantage = dict(
    name="by_phase", early="task", late="look", boundary=0.7
  )
  return config
