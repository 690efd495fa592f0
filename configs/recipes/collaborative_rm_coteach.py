"""Collaborative reward modelling: two models choose pairs for each other.

https://arxiv.org/abs/2505.10597. Of 40 % flipped labels those stay on which the
peer's loss is small, a share that falls to the estimated clean one. The two models
are linear on frozen features and choose before training, not in every batch.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    label_noise=0.4,
    curation=dict(name="coteach", noise=0.4),
  )
