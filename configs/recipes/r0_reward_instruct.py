"""Reward-Instruct: a few-step generator from rewards alone, each pulling alike.

Luo et al. 2025, https://arxiv.org/abs/2503.13070, the form R0+: the prediction at a
drawn step of a four-step sampler is scored, with no gradient before it, and the gradient
of every reward in the image has length 1. The authors tie the weights to the first ones;
here the velocities are tied. No code is public: weights, tie and noise are unverified. On
scenes a reward model is trained first, and the look of the image is the second reward.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="reward_instruct", scale=0.01)
  config.regularizers = dict(tie=dict(fn="velocity_distance", weight=0.1))
  recipes.draw_in(config, 4)
  config.align.update(noise="path", times=2, updates=2)
  config.optimizer.learning_rate = 1e-4
  config = recipes.differentiable(config, arg, __file__, "hps", "pick")
  if recipes.size_of(arg) != "full":
    config.rewards.look = dict(fn="smooth", weight=0.5)
  return config
