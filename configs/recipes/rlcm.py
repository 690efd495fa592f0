"""RLCM: the noise that a consistency model draws anyway is its exploration.

Oertell et al. 2024, https://arxiv.org/abs/2404.03673: a clean prediction, noised
again, as one Gaussian step; clip 1e-4 and credit relative to each prompt's history,
16 rewards. The policy here was not distilled: it is the flow model itself, with more
steps than 2 to 8.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.draw_in(config, config.rollout.num_steps)
  config.advantage = dict(name="per_prompt", buffer_size=16, min_count=16)
  config.regularizers = dict()
  return config
