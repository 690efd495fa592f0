"""TDM-R1: a few-step student follows a copy of its teacher that prefers the rewarded.

Luo et al. 2026, https://arxiv.org/abs/2603.07700: the reward needs no gradient. A copy of
the policy learns which samples of a group were rewarded, and where it departs from the
policy at the start is where the student goes, held by distribution matching and led by
guidance. Learning rates, clip and beta are those of the authors' code in its :full size.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.distilled(arg, __file__, name="surrogate_matching")
  config.players.surrogate = dict(
    fn="preferred_score", steps=2, optimizer=dict(learning_rate=1e-4)
  )
  if recipes.size_of(arg) == "full":
    for player in config.players.values():
      player.optimizer.learning_rate = 3e-4
    config.optimizer.learning_rate = 7.5e-5
  return config
