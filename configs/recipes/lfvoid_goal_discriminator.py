"""LFVoid: an ensemble that tells goal images from the policy's is the reward.

Gao et al. 2023, https://arxiv.org/abs/2307.07837, of robots: goals are observations that
a text-guided editor has changed, and discriminators of them pay the policy. Unverified:
how many, and how they are pooled; here the least of five probabilities, so that none can
be fooled alone. Goals are the scenes of the prompts, or edited images (`:full`). The
detector watches.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for an editing policy with exact answers."""
  size = recipes.size_of(arg)
  config = recipes.beside_answers(arg, __file__)
  if size != "full":
    config.rewards = dict(detector=dict(fn="detector", weight=0.0))
  config.players.goals = dict(
    fn="reality", weight=1.0, heads=5, pool="least", smoothing=0.0
  )
  if size == "smoke":
    config.players.goals.update(width=4, hidden=16)
  return config
