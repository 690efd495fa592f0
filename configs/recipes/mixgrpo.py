"""MixGRPO: noise and training in a window that slides, the ODE elsewhere.

Li et al. 2025, https://arxiv.org/abs/2507.21802, the progressive strategy of the authors'
code: 4 of 25 steps, moved by one every 25 iterations and shrinking before step 23, from
one noise for all of a group; advantages summed over rewards.
`--config.rollout.window_move.pace=linear` (or exponential) hurries late windows.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = recipes.size_of(arg)
  config.regularizers = dict()
  config.composition = dict(name="advantage_sum", epsilon=1e-8, sample_std=True)
  config.advantage = dict(name="group", std="none", clip=5.0)
  config.rollout.update(window_start=0, window_size=1 if size == "smoke" else 2)
  every = 2 if size == "smoke" else 25
  if size == "full":
    config.rollout.update(num_steps=25, window_size=4, group=12)
    config.optimizer.learning_rate = 1e-5
    names = ("hps", "clip", "image_reward", "pick")
    config.rewards = {name: dict(recipes.PUBLISHED[name]) for name in names}
  config.rollout.branch.update(members=config.rollout.group, steps=0)
  config.rollout.window_move = dict(
    name="sliding", every=every, stride=1, shrinks=True
  )
  if size == "full":
    config.rollout.window_move.last = 23
  config.align.update(updates=1)
  return config
