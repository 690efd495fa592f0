"""HP-DMD: distribution matching in which better samples of the student weigh more.

Hallo-Live, https://arxiv.org/abs/2604.23632: weights exp(z / T) of mean 1, with three
rewards of videos there. No code is public: T and the largest weight are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="distribution_matching")
  config.advantage = dict(name="exponential", tau=1.0, most=5.0, among="group")
  config.regularizers = dict()
  config.rollout.sampler = dict(name="renoise")
  config.rollout.num_steps = 4
  config.align.update(noise="path", times=2, updates=2)
  config.players.fake = dict(
    fn="fake_score", steps=2, optimizer=dict(learning_rate=1e-4)
  )
  config.optimizer.learning_rate = 5e-5
  return config
