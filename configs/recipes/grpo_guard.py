"""GRPO-Guard: a ratio that is centred and scaled alike at every step.

Wang et al. 2025, https://arxiv.org/abs/2510.22319. Clip range 2e-6 with the
group's own spread and no KL, as published for OCR and GenEval.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.objective = dict(name="grpo_guard", clip_range=2e-6)
  config.regularizers = dict()
  config.advantage.std = "group"
  return config
