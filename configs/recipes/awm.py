"""AWM: the flow loss as a likelihood, in the clipped loss of PPO.

Xue et al. 2025, https://arxiv.org/abs/2509.25050: finished samples are noised again,
and the ratio is exp(w(l_old) - w(l)) of their matching losses. At full size the policy
is also tied to a fast average of itself, as in the authors' code.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="awm", old_decay=0.0)
  config.regularizers = dict(kl=dict(fn="velocity_distance", weight=3e-3))
  if recipes.size_of(arg) == "full":
    config.references.fast = dict(rule="decayed", decay=0.3, rate=1e-3)
    config.regularizers.tie = dict(
      fn="velocity_distance", reference="fast", weight=1.0
    )
    config.rollout.num_steps = 14
    config.align.times = 6
  return config
