"""Branch and rethink: a judge picks what matters here, then looks again and decides.

Jiao et al. 2025, https://arxiv.org/abs/2510.23596, of answers in words there. The first
thought names the dimensions that decide, the second is written with them in view, and the
win rate is read off the probabilities of the verdict. A tiny model with random weights
stands in for the judge on scenes.
"""

from jaxreward import recipes

AGAIN = (
  "Now look again at what you named, and at nothing else: which picture is"
  " better there, and why? {answer}"
)


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(
    fn="vlm_pairwise", think=256, rethink=AGAIN, opponents=2, pairs="random",
    principle="Name at most three things that decide here, before all else.",
  )  # fmt: skip
  recipes.judge_with(config, arg, judge=judge)
  return config
