"""VR-Thinker: a judge looks several times and keeps the latest pictures in view.

Wang et al. 2025, https://arxiv.org/abs/2510.10518, read in the abstract: a judge of
videos asks for further frames while it reasons and sees a window of the latest of them;
what it noted of the others stays in words. Here it compares two images and asks for
parts of either of them, three times with a window of two. The training of such a judge
is not here. On scenes a tiny model with random weights stands in: it shows that the
recipe runs and teaches nothing.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(
    fn="vlm_pairwise", think=256, looks=3, window=2, opponents=2, pairs="random"
  )
  recipes.judge_with(config, arg, judge=judge)
  return config
