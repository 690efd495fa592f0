"""OPRM: a distribution over nine grades, learned from pairs in regions.

https://arxiv.org/abs/2602.12660 (from summaries of the paper; unverified: the
regions' bounds). The chance that one grade is higher than the other is learned;
the detector's rating says in which third of the scale each image lies.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="ordinal", grades=9, hidden=256),
    loss=dict(name="ordinal_pairs", regions=3),
  )
