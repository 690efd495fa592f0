"""UnifiedReward's pairs for DPO: pairs are compared first, then the ends are scored.

Wang et al. 2025, https://arxiv.org/abs/2503.05236: of ten images per prompt five pairs are
compared; the winner of most points is preferred to the loser of fewest, and a prompt on
which the two ways disagree is left out. At full size both are asked of UnifiedReward, of
a group of ten; each image meets one other by `opponents=1`, and win rates decide, where the
authors compare five pairs. On scenes one exact reward does both.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="flow_dpo", beta=100.0)
  recipes.reward_with(config, arg, task=1.0, look=0.5)
  ranks = points = ""
  if recipes.size_of(arg) == "full":
    judge = dict(weight=1.0, dtype="bfloat16")
    config.rewards = dict(
      ranks=dict(
        fn="unified_reward_pair", pairs="random", opponents=1, **judge
      ),
      points=dict(fn="unified_reward_point", **judge),
    )
    ranks, points = "ranks", "points"
    config.rollout.group = 10
  config.advantage = dict(name="sifted", ranks=ranks, points=points)
  config.align.pairs = 1
  return config
