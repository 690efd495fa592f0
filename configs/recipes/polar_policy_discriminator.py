"""POLAR: does an image come from the policy that drew the reference?

https://arxiv.org/abs/2507.05197. The authors pretrain language models to tell
policies apart; here the sources of the scenes' images are the policies: samples,
renders, corrupted and spoiled ones.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="beside_reference", hidden=64),
    loss=dict(name="same_policy"),
  )
