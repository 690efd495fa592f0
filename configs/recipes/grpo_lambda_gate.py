"""GRPO-lambda: the second reward counts for the prompts that are solved best.

Dai et al. 2025, https://arxiv.org/abs/2505.18086, the top fifth, with the look of a
picture in the place of a short answer. What counts as solved is chosen here, and so
is the strength (unverified).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=1.0)
  solved = 0.3 if recipes.size_of(arg) == "full" else 0.9
  config.composition = dict(
    name="mastered_first", base="task", threshold=solved, share=0.2
  )
  config.advantage.std = "group"
  return config
