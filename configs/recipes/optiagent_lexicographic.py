"""OptiAgent: a cascade of rewards, each counted where those before it are met.

Geng et al. 2026, https://arxiv.org/abs/2602.23761, of lenses there, with the
advantage of DrGRPO, which does not divide; thresholds are chosen here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0, bytes=0.1)
  limits = (0.3, 0.75) if recipes.size_of(arg) == "full" else (0.75, 0.5)
  config.composition = dict(
    name="lexicographic", order=("task", "look", "bytes"), thresholds=limits
  )
  config.advantage = dict(name="group", std="none", clip=5.0)
  return config
