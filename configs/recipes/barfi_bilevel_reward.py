"""BARFI: auxiliary rewards weigh as far as they help the primary one.

Gupta et al. 2023, https://arxiv.org/abs/2310.19007, of control there, with the outer
gradient through the inner optimum. Here it is that of one step: the weight of an
auxiliary moves with the cosine of its gradient to the first reward's, and ends at 0
where it misleads. Rate and bound are chosen here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0, bytes=1.0)
  config.composition = dict(name="separate")
  config.align.combine = dict(name="bilevel", rate=0.1)
  return config
