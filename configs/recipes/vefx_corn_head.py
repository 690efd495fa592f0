"""VEFX-Bench's head: four grades by conditional thresholds.

https://arxiv.org/abs/2604.16272; trained by the CORN loss,
https://arxiv.org/abs/2111.08851, which goes with this head (unverified: the
authors' own training). One aspect here, the detector's rating in four grades;
the authors read three, each from a token of its own.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="thresholds", grades=4, hidden=0),
    loss=dict(name="corn"),
  )
