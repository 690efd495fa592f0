"""Diff-Instruct*: a reward, held by a robust divergence between scores.

Luo et al. 2024, https://arxiv.org/abs/2410.20898: a copy learns the generator's samples,
and the divergence from the guided reference pulls them back. The authors' generator has
one step, reward weight 100 and guidance 7.5; here it has four, and both are small. Weights
over time are unverified. On scenes a reward model is trained first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="score_implicit", reward=0.1, guidance=1.5)
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
  config.objective.update(reward=1.0, guidance=7.5)
  config.rewards = dict(
    pick=dict(fn="pick_score", weights="yuvalkirstain/PickScore_v1")
  )
  return config
