"""Edit-R1's verifier: a scorer that samples, trained by pairs.

https://arxiv.org/abs/2604.27505 (from summaries of the paper). Each sampled score
of the better image is rewarded by the share of the worse one's that it beats. The
authors' scorer reasons in words; here it is a Gaussian head.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="gaussian", hidden=256),
    loss=dict(name="contrast_policy", samples=8),
  )
