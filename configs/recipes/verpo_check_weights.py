"""VeRPO: checks weigh by how hard they are for the group, beside passing all.

Wang et al. 2026, https://arxiv.org/abs/2601.03525, with checks of a picture in the
place of unit tests and no division by the deviation; alpha, sigma and beta are
unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  if recipes.size_of(arg) == "full":
    recipes.reward_with(config, arg, task=1.0, look=1.0)
    config.composition = dict(name="check_weights", passed=0.3)
  else:
    config.rewards = dict(
      most=dict(fn="detector", strict_weight=0.0),
      every=dict(fn="strict"),
      even=dict(fn="smooth"),
    )
    config.composition = dict(name="check_weights", passed=0.75)
  config.advantage = dict(name="group", std="none")
  return config
