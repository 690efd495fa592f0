"""SePPO: a reference image against what an older copy of the policy drew.

Zhang et al. 2024, https://arxiv.org/abs/2410.05255. Each group has one reference image,
of the task or of a file's "target"; losers, and the errors they are compared with, come
from an earlier copy of the policy, drawn in every iteration among those of every 25. The
sign of the anchor and beta are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="seppo", beta=100.0)
  config.references.old = dict(rule="earlier", count=25, slots=8)
  config.rollout.real = 1
  return config
