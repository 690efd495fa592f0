"""COPO: a group that agrees is compared with the other groups.

Han et al. 2025, https://arxiv.org/abs/2508.04138, of answers there; here equal
rewards are equal outcomes, so that the strict verdict of the detector, 0 or 1, is
the reward on scenes.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  if recipes.size_of(arg) != "full":
    config.rewards = dict(strict=dict(fn="strict"))
  config.advantage = dict(name="global_and_local", sharpness=1.0, clip=5.0)
  return config
