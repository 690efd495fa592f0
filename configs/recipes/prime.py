"""PRIME: a copy of the policy whose log-ratios say which steps earned the reward.

Cui et al. 2025, https://arxiv.org/abs/2502.01456, of texts there. The copy's sum of
log-ratios is the logit of the reward; its steps are paid beside the outcome, each
against the rest of the group, with scores from before the copy's update. Prompts
that all samples solve, or none, are dropped.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="implicit_process")
  config.regularizers = dict()
  config.players.process = dict(
    fn="process_reward", optimizer=dict(learning_rate=5e-5)
  )
  if recipes.size_of(arg) == "full":
    config.advantage.update(least=0.2, most=0.8)
  return config
