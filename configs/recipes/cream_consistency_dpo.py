"""CREAM: the policy ranks its samples itself, and its previous copy says how surely.

Wang et al. 2024, https://arxiv.org/abs/2410.12735, of texts there. No reward is trained
on: samples are ranked by the policy's own error on them, at each noise and time, where
texts have a likelihood. The previous copy, refreshed every 25 iterations here, is the
reference too.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="consistent_dpo", beta=100.0)
  config.references.reference = dict(rule="every", count=25)
  return config
