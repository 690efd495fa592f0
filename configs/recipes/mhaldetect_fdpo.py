"""FDPO: a preference loss on single samples, good or bad, without pairs.

Gunjal et al. 2023 (M-HalDetect), https://arxiv.org/abs/2308.06394, of segments of an
answer there, of whole samples here. beta is that of Flow-DPO, and the band without a
label is chosen here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  return recipes.preference(
    arg, __file__, name="single_dpo", beta=100.0, neutral=0.25
  )
