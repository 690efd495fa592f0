"""DesignSense: first better, second better, both good or both bad.

https://arxiv.org/abs/2602.23438. The authors' classifier is a vision-language model
that reads two layouts; here a network on the features of two images whose outcomes
swap with them. Ties of the detector's strict verdict are good or bad.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="outcomes", hidden=64),
    loss=dict(name="four_outcomes", good=0.5),
  )
  config.train_reward.pictures.strict_weight = 1.0  # good or bad, nothing else
  config.train_reward.ties = "half"
  return config
