"""CDM: a few-step student that matches its teacher's distribution at any time.

Liu et al. 2026, https://arxiv.org/abs/2605.06376, read in the authors' code: guidance 7,
matching on points of the student's own path and beside it, and a copy that learns what
the student draws, twice per step of it. The authors draw lengths and times of the path
anew; here the four steps are fixed and the extrapolation is `align.gap`. The reward is
watched, not followed.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="continuous_matching", guidance=7.0)
  config.regularizers = dict()
  config.rollout.sampler = dict(name="renoise")
  config.rollout.num_steps = 4
  config.align.update(noise="path", times=2, updates=2)
  config.players.fake = dict(
    fn="fake_score", steps=2, optimizer=dict(learning_rate=1e-4)
  )
  config.optimizer.learning_rate = 5e-5
  config.align.gap = 0.15
  return config
