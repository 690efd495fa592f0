"""PAL: every user's ideal image is a mixture of shared prototypes.

https://arxiv.org/abs/2406.08469. The authors project frozen CLIP features; here the
scenes' trunk learns too. Users are planted, half of them like warm colours and half
cold ones; four are in the test alone, scored as the average user and after a few
of their rows (`evaluation.json`, users).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.of_users(
    arg,
    __file__,
    head=dict(name="ideal_point", users=8, prototypes=2, hidden=128),
    loss=dict(name="hinge", margin=1.0),
  )
