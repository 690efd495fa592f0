"""STARC: how far a reward is from the gold reward, with bounds on regret.

https://arxiv.org/abs/2309.15257. Each prompt's mean is taken off, the rest is
normalized, and the distance is 0 for the same order of images by the same gaps, 2
for the opposite; printed beside best-of-n regret.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.judged(arg, __file__, views=0, inside="train")
