"""Think, then score: a thought, and a score that is read without being written.

https://arxiv.org/abs/2605.05922. The authors' score is a head on a query token after
the thought; here it is the expected number under the probabilities after it, averaged
over two thoughts. A tiny model with random weights stands in for the judge on scenes.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(fn="vlm_pointwise", answer="score", think=256, thoughts=2)
  recipes.judge_with(config, arg, judge=judge)
  return config
