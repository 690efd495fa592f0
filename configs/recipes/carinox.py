"""CARINOX: the noise of several seeds climbs several rewards.

Kasaei et al. 2025, https://arxiv.org/abs/2509.17458. The authors' optimizer and seeds,
for a one-step generator and rewards chosen by category; here two steps of the scenes'
policy, a reward model that the run trains first, and the smoothness of the image.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=2,
    name="carinox", particles=2 if small else 5, iterations=2 if small else 50,
  )  # fmt: skip
  config = recipes.train_reward_first(config, arg, __file__)
  config.rewards.look = dict(fn="smooth", weight=1.0)
  return config
