"""DGPO: preferences between the better and the worse half of a group.

Luo et al. 2025, https://arxiv.org/abs/2510.08425; the reference is the policy
where training began, beta 100, with a distance to its velocities of weight .02.
The authors' program also clips the loss of a sample by exp(l_old - l), shares its
four times between all groups, at the noisier steps of the sampler, and can move
the reference to an average; here times are drawn per prompt.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="dgpo", beta=100.0)
  config.regularizers = dict(kl=dict(fn="group_velocity_distance", weight=0.02))
  return config
