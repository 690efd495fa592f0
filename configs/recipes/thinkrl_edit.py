"""ThinkRL-Edit: advantages inside a chain on whose order all rewards agree.

Li et al. 2026, https://arxiv.org/abs/2601.03467, the choice of candidates; that the
chain is the longest is unverified. Its reasoning about an edit, in words, and its
checklists (`judge_checklist`) are not part of this.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(name="chain")
  config.advantage = dict(name="group", std="group", clip=5.0)
  return config
