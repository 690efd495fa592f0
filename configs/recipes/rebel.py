"""REBEL: rewards' differences by regression, around the policy that drew.

Gao et al. 2024, https://arxiv.org/abs/2404.16767, as RLCM's second loss has it
(https://arxiv.org/abs/2404.03673): eta 1 of sums over elements, on steps of fresh
noise.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  elements = 65536 if recipes.size_of(arg) == "full" else 3888
  config.objective = dict(name="rebel", eta=1.0 * elements)
  recipes.draw_in(config, config.rollout.num_steps)
  config.regularizers = dict()
  config.align.updates = 1
  return config
