"""DanceGRPO: constant noise, rewards normalised apart, the ends of each group.

Xue et al. 2025, https://arxiv.org/abs/2505.07818: noise .3, clip 1e-4, no KL, and for
HunyuanVideo the best and worst 8 of 24. A group starts from one noise; each sample trains
a random 60 % of the steps. The last step draws no noise and is not trained, so that what
is scored is its prediction.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = recipes.size_of(arg)
  recipes.reward_with(config, arg, task=1.0, look=0.5)
  config.composition = dict(name="advantage_sum", epsilon=1e-6, sample_std=True)
  keep = dict(smoke=2, default=8, full=8)[size]
  config.advantage = dict(name="best_and_worst", keep=keep, std="none")
  config.rollout.sampler = dict(name="dance_sde", noise_level=0.3)
  config.rollout.branch.update(members=config.rollout.group, steps=0)
  config.regularizers = dict()
  if size == "full":
    config.rollout.num_steps = 16
    config.optimizer.learning_rate = 1e-5
  if size != "default":
    config.align.updates = 1
  config.rollout.window_size = config.rollout.num_steps - 1
  config.align.step_share = 0.6
  return config
