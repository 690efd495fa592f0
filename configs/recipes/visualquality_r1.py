"""VisualQuality-R1: a scorer that samples, rewarded by how well it ranks.

https://arxiv.org/abs/2505.14460. Six scores of each image are drawn, and each is
rewarded by the fidelity of Thurstone's probabilities to the labels. The authors'
scorer reasons in words; here it is a Gaussian head.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="gaussian", hidden=256),
    loss=dict(name="rank_policy", samples=6),
  )
