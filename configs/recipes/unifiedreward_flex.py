"""UnifiedReward-Flex: win rates overall and on categories, blended.

Wang et al. 2026, https://arxiv.org/abs/2602.02380: `(W + mean of D_c) / 2`, of all pairs
of a group. The authors' judge invents the categories for each prompt; here they are
given as principles. A tiny model with random weights stands in for it on scenes.
"""

from jaxreward import recipes

CATEGORIES = {
  "words": "Only what the prompt asks for counts, not the look.",
  "look": "Only composition, colour and light count, not the prompt.",
  "craft": "Only flaws count: what is deformed, blurred or impossible.",
}


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judges = {
    name: dict(fn="vlm_pairwise", principle=text, weight=1 / 6)
    for name, text in CATEGORIES.items()
  }
  overall = dict(fn="vlm_pairwise", weight=0.5)
  recipes.judge_with(config, arg, overall=overall, **judges)
  return config
