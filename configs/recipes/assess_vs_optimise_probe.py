"""A reward as an assessor and as an objective: what is best for one need not be for both.

Zhang et al. 2025, https://arxiv.org/abs/2509.20878 (read in the abstract). One reward
model is trained, judged on held-out preferences, and optimized by its gradient, while the
detector measures what the policy reaches; configs/sweeps/assess_vs_optimise.py does so
with several and correlates the two (`evaluation.reward_models.pairs.asymmetry`).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.aligned_and_judged(
    recipes.load("diffusion_nft", arg, __file__), arg, __file__, views=0
  )
  config.objective = dict(name="align_prop")
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  config.align.update(last_steps=1, updates=1)
  return config
