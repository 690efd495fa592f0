"""Variational preference learning: a user is a latent that comparisons reveal.

https://arxiv.org/abs/2408.10075. Pairs of a user's other rows of the batch give a
Gaussian latent that the value depends on; no user is known by number. Users are
planted, with opposite tastes; four are in the test alone, which scores for the
average user.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="latent", width=16, hidden=128),
    loss=dict(name="variational", beta=0.003),
  )
  config.train_reward.users.update(count=8, unseen=4, weight=0.7)
  return config
