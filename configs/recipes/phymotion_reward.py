"""PhyMotion: videos of people are rewarded for motion that physics allows.

Huang et al. 2026, https://arxiv.org/abs/2605.14269, read in the authors' code: meshes of
people are recovered from videos, and a kinematic, a contact and a dynamic score are the
reward of DiffusionNFT at beta .1. Without a network for meshes the body is three
points of what stands out in a frame (`rewards.bodies`), of Wan 2.1. Without its
weights, a tiny model with random weights stands in: it shows that the recipe runs and
teaches nothing.
"""

from jaxreward import config as config_lib
from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Wan 2.1 of 1.3B."""
  size = recipes.size_of(arg)
  small = "" if size == "full" else ",tiny"
  spec = f"../align_public.py:wan_t2v,objective=diffusion_nft{small}"
  config = config_lib.load_sibling(spec, __file__)
  config.rewards = dict(body=dict(fn="feasible", weight=1.0, fps=8.0))
  config.objective.beta = 0.1
  config.video.frames = 9 if size == "full" else 5
  if size != "full":
    config.align.iterations = 4 if size == "smoke" else 50
  return config
