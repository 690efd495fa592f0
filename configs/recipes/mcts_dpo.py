"""MCTS-DPO: preferences between siblings, as sure as their values differ.

Xie et al. 2024, https://arxiv.org/abs/2405.00451, of a reasoner's steps in a search tree.
Here siblings are the samples of a group that share their first noise; the label's doubt,
there of visits, is of the rewards (unverified). No tree is searched.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(
    arg, __file__, name="smoothed_dpo", beta=100.0, temperature=0.2
  )
  config.align.pairs = 2
  config.rollout.sampler = dict(name="cps")
  config.rollout.branch.update(members=2, steps=1)
  return config
