"""ViSurf: a reference image is one more sample of every group.

https://arxiv.org/abs/2510.10527, of answers there: where the policy fails, the reference
earns all the credit and is imitated, and where it succeeds nothing is left to learn from
it. Here on DiffusionNFT, which needs no likelihood of an image that nobody drew. Their
rules for the reference's reward are not part of this.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.rollout.real = 1
  return config
