"""GAPO: pairs weigh by the gap of their rewards.

Zhu et al. 2025 (AnimeReward), https://arxiv.org/abs/2504.10044: 2^w - 2^l with
rewards in [0, 1], on the policy's own best and worst here. Their beta, 5000, is for
errors of noise; 100 is that of Flow-GRPO's code for pairs. Their reward models of
video, one per dimension, are not part of this.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(
    arg, __file__, name="gap_dpo", beta=100.0, base=2.0
  )
  config.align.pairs = 1 if recipes.size_of(arg) == "smoke" else 2
  return config
