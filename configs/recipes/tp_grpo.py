"""TP-GRPO: steps of one verdict are one thought, rewarded as a whole.

He et al. 2025, https://arxiv.org/abs/2507.23317, of a reasoner, whose steps a generative
model judges. Here the verdict is whether a denoising step has gained reward, of latents
finished by the ODE; the weights by how strong the group is are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="segments", strength=0.5, clip=5.0)
  return config
