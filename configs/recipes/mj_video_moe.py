"""MJ-VIDEO: the prompt decides which criteria count.

https://arxiv.org/abs/2502.01719. The authors have 28 criteria in five aspects and
three stages of training; here the detector's four measures are the criteria, in
two aspects, and the loss is the last stage's from the start.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="experts", sizes=(3, 1), hidden=64, temperature=1.0),
    loss=dict(name="mixed_experts"),
  )
