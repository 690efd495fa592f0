"""LSC: the log-probability to be good in every respect at once.

Wang et al. 2024, https://arxiv.org/abs/2402.00742: log sigmoid around the 85 %
quantile of the starting policy's scores for the prompt, summed over rewards, so that
the weakest drives learning. The scale brings rewards in [0, 1] to log-odds. Each
prompt that is met for the first time costs a group of samples more.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  scale = 50.0 if recipes.size_of(arg) == "full" else 5.0
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(name="log_sigmoid_sum", quantile=0.85, scale=scale)
  return config
