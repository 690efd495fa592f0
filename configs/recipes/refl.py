"""ReFL: a reward is followed by its gradient until it is good enough.

Xu et al. 2023 (ImageReward), https://arxiv.org/abs/2304.05977. The authors stop at a
random late step, predict the picture in one go and keep a loss on pictures beside;
here a random number of the last steps carries the gradient. On scenes a reward model
is trained first, whose scores have another scale: the margin is chosen for them.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.reward_feedback(arg, __file__)
  if recipes.size_of(arg) == "full":
    config.optimizer.learning_rate = 1e-5
  return config
