"""You Only Judge Once: all images of a prompt are scored beside one another.

https://arxiv.org/abs/2604.10966. The authors put all candidates into one sequence
of a language model; here they attend to each other in the head. The loss is one
choice of the best of a row.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="among", width=64, heads_of=2),
    loss=dict(name="best_of_row"),
  )
