"""ReNO: the initial noise climbs the gradient of the reward.

Eyring et al. 2024, https://arxiv.org/abs/2406.04312. The authors' optimizer and prior,
for a one-step generator and four learned rewards; here two steps of the scenes' policy
and the smoothness of the image, which needs no weights. The detector watches.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=2,
    name="reno", iterations=2 if small else 50,
  )  # fmt: skip
  config.rewards = dict(look=dict(fn="smooth", weight=5.0))
  config.heldout_rewards = dict(detector=dict(fn="detector", weight=1.0))
  return config
