"""VGPO: values of single steps, anchored at their own size.

Shao et al. 2025, https://arxiv.org/abs/2512.12387, in the expanded form, which does
not vanish where all samples score alike; discount and anchor are unverified. One Euler
step finishes the latents of each step: T further evaluations of the network, and T + 1
scores of each sample.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="values", anchored=0.5, clip=5.0)
  return config
