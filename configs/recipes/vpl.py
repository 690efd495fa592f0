"""Variational preference learning: a user is a latent that comparisons reveal.

https://arxiv.org/abs/2408.10075. Pairs of a user's other rows of the batch give a
Gaussian latent that the value depends on; no user is known by number. Users are
planted, with opposite tastes; four are in the test alone, scored as the average user
and after a few of their rows (`evaluation.json`, users).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.of_users(
    arg,
    __file__,
    head=dict(name="latent", width=16, hidden=128),
    loss=dict(name="variational", beta=0.003),
  )
