"""SSL: a reward in tiers that grow towards what is best.

Wu et al. 2026, https://arxiv.org/abs/2601.22491, of distances to a target there;
tiers and their values are chosen here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  full = recipes.size_of(arg) == "full"
  recipes.reward_with(config, arg, task=1.0)
  limits = (0.2, 0.25, 0.3, 0.35) if full else (0.25, 0.5, 0.75, 0.95)
  config.composition = dict(name="tiers", thresholds=limits)
  return config
