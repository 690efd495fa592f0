"""TempFlow-GRPO: a step's loss weighs by how much noise it draws.

He et al. 2025, https://arxiv.org/abs/2508.04324, the noise-aware weight of the
authors' code, 2.25 std. Their branches, which give each step a reward of its own,
are compared among themselves and not part of this (`rollout.branch` draws such ones);
`dense_grpo` gives credit to steps in another way.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="noise_weighted", scale=2.25)
  config.regularizers.kl.form = "exact"
  return config
