"""Image and text matching with a max-margin loss in both directions.

The loss of two towers, https://arxiv.org/abs/1707.05612 with the hardest negatives;
margin and choice of negatives are unverified. The best image of a row has to match
its prompt better than the prompts of other rows. Small towers, random at first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="similarity"),
    loss=dict(name="hinge_matching", margin=1.0, hardest=False),
  )
  config.reward_model.backbone = dict(name="clip", size="tiny")
  config.train_reward.init_from_policy = False
  return config
