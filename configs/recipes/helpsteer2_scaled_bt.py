"""HelpSteer2-Preference: the strength of a preference multiplies its loss.

https://arxiv.org/abs/2410.01257. The strength of an answer, 1 to 3, is how far
apart the detector rates two images. The authors start from a model that was
fitted to ratings first, which this does not.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="scalar", hidden=256),
    loss=dict(name="scaled_bradley_terry", levels=3),
  )
