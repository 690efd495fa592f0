"""CDM: a few-step student that matches its teacher's distribution at any time.

Liu et al. 2026, https://arxiv.org/abs/2605.06376, read in the authors' code: guidance 7,
matching on points of the student's own path and beside it, and a copy that learns what
the student draws, twice per step of it. The authors draw lengths and times of the path
anew; here the four steps are fixed and the extrapolation is `align.gap`. The reward is
watched, not followed.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.distilled(
    arg, __file__, name="continuous_matching", guidance=7.0
  )
  config.align.gap = 0.15
  return config
