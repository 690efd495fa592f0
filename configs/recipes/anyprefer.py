"""Anyprefer: a judge with tools ranks several candidates, and clear pairs are kept.

Zhou et al. 2025, https://arxiv.org/abs/2504.19276: a target model answers several times, a
judge that may ask tools ranks the answers, the best and the worst are a pair, and a model
scores how good a pair it is. Here the judge that ships and an exact detector, as its tool,
are added, and a pair stays if both its ends are a deviation from the group's mean or more;
pairs teach by Diffusion-DPO. The authors rewrite both prompts and try again where a pair
is not good enough; that needs a writer of prompts and is not done. `unverified`: five
candidates and the threshold.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="flow_dpo", beta=100.0)
  recipes.judge_with(config, arg, judge=dict(fn="vlm_pointwise", weight=0.5))
  tool = dict(fn="detector")
  if recipes.size_of(arg) == "full":
    tool = dict(fn="objects", weights="google/owlvit-base-patch32")
  config.rewards.tool = dict(tool, weight=0.5)
  group = 4 if recipes.size_of(arg) == "smoke" else 5
  config.rollout.group = group
  config.advantage = dict(name="branch_ends", members=group, least=1.0)
  config.align.pairs = 1
  return config
