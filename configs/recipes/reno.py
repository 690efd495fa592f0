"""ReNO: the initial noise climbs the gradient of the reward.

Eyring et al. 2024, https://arxiv.org/abs/2406.04312. The authors' optimizer and prior,
for a one-step generator and four rewards of public weights; here two steps of the
scenes' policy and a reward model that the run trains first. The detector watches.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=2,
    name="reno", iterations=2 if small else 50,
  )  # fmt: skip
  return recipes.train_reward_first(config, arg, __file__)
