"""GSPO: whole samples are clipped, not single steps.

Zheng et al. 2025, https://arxiv.org/abs/2507.18071, of texts there: one ratio per
sample, the geometric mean over its steps.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.objective = dict(name="gspo", clip_range=1e-4)
  config.align.split = "samples"
  return config
