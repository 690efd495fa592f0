"""EditReward: scores that say how unsure they are, and their expected loss.

https://arxiv.org/abs/2509.26346. The head predicts a Gaussian, and the loss is
the Bradley-Terry loss expected of the difference of two, by quadrature where the
authors draw. One head here, where they have one per aspect. Aligned against such
a model, `composition.name="lower_bound"` takes off what it is not sure of.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="gaussian", hidden=256),
    loss=dict(name="expected_bradley_terry", margin=0.0),
  )
