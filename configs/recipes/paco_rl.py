"""PaCo-RL: rewards that vary much against the others are tamed by a logarithm.

Ping et al. 2025, https://arxiv.org/abs/2512.04784, no KL. The default config that
the authors release adds plain rewards: `--config.composition.name=weighted_sum`.
Noise is drawn in a window of one step, as there for sets of pictures; the reward
for consistency between pictures of a set is not part of this.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  config.composition = dict(name="tamed_sum")
  config.advantage = dict(name="group", std="batch", clip=5.0)
  config.regularizers = dict()
  config.rollout.update(window_start=1, window_size=1)
  config.align.split = "samples"
  return config
