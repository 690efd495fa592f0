"""GRAO: own samples, a reference image, and the move from one to the other.

Wang et al. 2025, https://arxiv.org/abs/2508.07750, of texts there; the flow-matching
loss takes the place of -log p, and each group has one reference image. Both weights are
unverified; a distance to the velocities where training began keeps bad samples from
being driven away without bound.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(
    arg, __file__, name="grao", imitation=0.5, alignment=0.6
  )
  config.rollout.real = 1
  config.regularizers = dict(
    anchor=dict(fn="group_velocity_distance", weight=1.0)
  )
  return config
