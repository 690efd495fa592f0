"""DGPO: preferences between the better and the worse half of a group.

Luo et al. 2025, https://arxiv.org/abs/2510.08425; the reference is the policy
where training began, beta 100.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="dgpo", beta=100.0)
  config.regularizers = dict()
  return config
