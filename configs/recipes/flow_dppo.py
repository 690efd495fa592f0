"""Flow-DPPO: an exact trust region per step in the place of a clip.

https://arxiv.org/abs/2606.11025; threshold 1e-5 nats per latent element.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.objective = dict(name="flow_dppo", threshold=1e-5)
  config.regularizers = dict()
  return config
