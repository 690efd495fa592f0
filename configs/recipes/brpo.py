"""BRPO: better or worse than one sample of the group that is drawn at random.

Jia et al. 2025 (Writing-Zero), https://arxiv.org/abs/2506.00103, of texts there,
which a pairwise judge compares; here the reward does. Groups in which all verdicts
are the same are dropped; the authors' threshold is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.5)  # ties are rare
  config.advantage = dict(name="against_one")
  config.regularizers = dict()
  return config
