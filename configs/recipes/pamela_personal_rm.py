"""PAMELA: a common score and a user's own, both from one image.

https://arxiv.org/abs/2604.07427 (unverified: the authors' backbone, fusion and
loss). Ratings of planted users of opposite taste; the taste of a new one is a
ridge fit to a few ratings (`evaluation.json`, users: adapted).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.of_users(
    arg,
    __file__,
    head=dict(name="personal", users=8, width=8, hidden=128),
    loss=dict(name="regression"),
  )
