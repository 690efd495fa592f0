"""MM-DPO: a beta that grows with the gap of a pair's rewards.

Zhang et al. 2025 (MM-RLHF), https://arxiv.org/abs/2502.10391, of texts there; the
form of the paper, whose .5 and .5 are unverified, around the beta of Flow-GRPO's
code for pairs of pictures.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(
    arg, __file__, name="dynamic_dpo", beta=100.0, growth=0.5, rate=0.5
  )
  config.align.pairs = 1 if recipes.size_of(arg) == "smoke" else 2
  return config
