"""ReFL: a reward is followed by its gradient until it is good enough.

Xu et al. 2023 (ImageReward), https://arxiv.org/abs/2304.05977. The authors stop at a
random late step, predict the picture in one go and keep a loss on pictures beside;
here a random number of the last steps carries the gradient. On scenes a reward model
is trained first, whose scores have another scale: the margin is chosen for them.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  size = recipes.size_of(arg)
  config.objective = dict(name="refl", margin=2.0, scale=1e-3)
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  config.align.update(last_steps=1 if size == "smoke" else 3, updates=1)
  config.align.depth = dict(name="uniform")
  if size == "full":
    config.rollout.num_steps = 40
    config.align.last_steps = 10
    config.optimizer.learning_rate = 1e-5
  return recipes.differentiable(config, arg, __file__, "image_reward")
