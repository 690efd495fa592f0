"""Retraining on curated samples: of each group one, chosen as users would.

Ferbach et al. 2024, https://arxiv.org/abs/2407.09499: one of K with probability
softmax(r). Their retraining mixes real pictures in, which keeps the variance; here
a distance to the velocities where training began takes their place. The temperature
is chosen for rewards in [0, 1].
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="flow_matching")
  config.advantage = dict(name="curated", temperature=0.1)
  config.regularizers = dict(anchor=dict(fn="velocity_distance", weight=0.1))
  return config
