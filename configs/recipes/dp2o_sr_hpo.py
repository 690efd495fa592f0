"""DP2O-SR: several pairs of a group, weighed within and between groups.

Wu et al. 2025, https://arxiv.org/abs/2510.18851, of super-resolution there: the best
quarter of a group against the worst, by a quality score of several metrics. The form
of the weights is unverified; beta is that of Flow-GRPO's code for pairs.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(
    arg, __file__, name="hierarchical_dpo", beta=100.0
  )
  config.align.pairs = config.rollout.group // 4
  return config
