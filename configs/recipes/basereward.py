"""BaseReward: a two-layer head and the plain Bradley-Terry loss.

https://arxiv.org/abs/2509.16127. The authors tune a vision-language model on a
mixture of pairs and find that two layers with SiLU suffice, without a margin, a
regularizer or a smoothing of labels; the trunk is the scenes' here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="scalar", hidden=256, activation="silu"),
    loss=dict(name="bradley_terry", margin=0.0, label_noise=0.0),
  )
