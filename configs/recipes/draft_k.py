"""DRaFT-K: the reward's gradient through the last steps of the sampler.

Clark et al. 2023, https://arxiv.org/abs/2309.17400. A reward model is trained
first and its gradient followed; the detector is held out and shows how soon the
policy learns to please the model alone.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="align_prop")
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  config.align.update(last_steps=1, updates=1)
  return recipes.differentiable(config, arg, __file__, "pick")
