"""PAR: the reward is the chance to be preferred to the policy where training began.

Fu et al. 2025, https://arxiv.org/abs/2502.18770: sigmoid of the difference to 10
samples of the same prompt, here to a group; no more is to be had where the reward is
far above them. The scale brings rewards in [0, 1] to log-odds. Each prompt that is
met for the first time costs a group of samples more.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  scale = 50.0 if recipes.size_of(arg) == "full" else 5.0
  recipes.reward_with(config, arg, task=1.0)
  config.composition = dict(name="preference_sum", scale=scale)
  return config
