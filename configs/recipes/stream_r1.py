"""Stream-R1: matching weighed by the reward of a sample, and by where the reward looks.

Wu et al. 2026, https://arxiv.org/abs/2605.03849: rollouts weigh exp(reward), and places
of one by the size of the reward's gradient. Of videos there, which also have weights over
time; constants are unverified. On scenes a reward model is trained first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="salient_matching")
  config.advantage = dict(name="exponential", tau=1.0, most=5.0, among="group")
  config.regularizers = dict()
  config.rollout.sampler = dict(name="renoise")
  config.rollout.num_steps = 4
  config.align.update(noise="path", times=2, updates=2)
  config.players.fake = dict(
    fn="fake_score", steps=2, optimizer=dict(learning_rate=1e-4)
  )
  config.optimizer.learning_rate = 5e-5
  if recipes.size_of(arg) != "full":
    return recipes.train_reward_first(config, arg, __file__)
  config.rewards = dict(
    pick=dict(fn="pick_score", weights="yuvalkirstain/PickScore_v1")
  )
  return config
