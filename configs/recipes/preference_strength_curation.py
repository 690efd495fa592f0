"""Preference strength: labels that an ensemble contradicts are turned round.

https://arxiv.org/abs/2401.06080. The mean margin of proxies that were not fitted
to a pair's prompt is its strength: of 20 % flipped labels the weakest fifth is
turned, the next softened. Proxies are linear on frozen features, where the paper
trains ten models, and its margins and contrastive terms are left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    label_noise=0.2,
    curation=dict(name="preference_strength", flip=0.2, soften=0.2),
    proxies=dict(members=10, width=64, ridge=1e-2),
  )
