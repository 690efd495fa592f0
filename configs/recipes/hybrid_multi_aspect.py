"""Hybrid rewards: an exact rule where there is one, a learned reward elsewhere.

Gulhane and Indurthi 2025, https://arxiv.org/abs/2510.05283, of answers there, with a
choice by confidence. Here a reward counts where it is applicable: `kinds` of it says
for which prompts; without, the first one always is. Constants are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(name="routed", order=("task", "look"))
  return config
