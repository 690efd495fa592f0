"""ARM-Thinker: a judge asks for a part of the image, sees it closer, then decides.

Ding et al. 2025, https://arxiv.org/abs/2512.05111, of the tool that crops. After a
thought the judge names one of nine parts of the image, or none; the part is a further
picture of what it reads and the probability of yes is read after a second thought. The
authors' judge writes any box and has tools that search documents, and it is trained to
use them by rewards that favour a right verdict after a tool; here its weights are
fixed. On scenes a tiny model with random weights stands in: it shows that the recipe
runs and teaches nothing.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(fn="vlm_pointwise", think=256, looks=1)
  recipes.judge_with(config, arg, judge=judge)
  return config
