"""EditHF-1M: a mean opinion score per aspect, above zero.

https://github.com/IntMeGroup/EditHF. The authors read three aspects of an edit from a
vision-language model, each with adapters of its own, and a head of three layers;
here two layers on one trunk, and the four aspects that the detector measures.
Their training losses are unverified: squared error and the order of pairs.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="aspects", count=4, hidden=128, positive=True),
    loss=dict(name="aspect_ratings_and_order", order_weight=1.0),
  )
