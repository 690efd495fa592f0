"""TempFlow-GRPO: each step has a branch and a reward of its own, and weighs by its noise.

He et al. 2025, https://arxiv.org/abs/2508.04324. Samples follow the ODE; every step but
the last draws noise aside, and where that leads is finished by the ODE and scored. Losses
weigh 2.25 std. Six branches of each initial noise, of which a prompt has four, as in
accounts of the authors' code. An iteration of T steps costs T (T + 1) / 2 further
evaluations of the network and T scores of each sample.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = recipes.size_of(arg)
  config.advantage = dict(name="branched", scale=2.25, clip=5.0)
  config.regularizers.kl.form = "exact"
  config.rollout.update(aside=True, window_start=0)
  config.rollout.window_size = config.rollout.num_steps - 1
  members = dict(smoke=2, default=4, full=6)[size]
  config.rollout.branch.update(members=members, steps=0)
  config.align.split = "samples"
  return config
