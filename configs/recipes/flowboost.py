"""FlowBoost: flow matching on the policy's own samples, weighed by their reward.

Bérczi et al. 2026, https://arxiv.org/abs/2601.18005: exp(2 z), at most 15, with mean
1, and .6 times the distance to the velocities where training began. The authors
search for geometric structures, and perturb and repair what the flow has drawn; here a
group explores around one sample of the policy, noised and drawn back.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="flow_matching")
  config.advantage = dict(name="exponential", tau=2.0, most=15.0, among="group")
  config.regularizers = dict(anchor=dict(fn="velocity_distance", weight=0.6))
  config.rollout.start = dict(name="own", strength=0.6)
  return config
