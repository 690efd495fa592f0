"""OpenRubrics: a rubric of hard rules and principles, and a judge that follows it.

Liu et al. 2025, https://arxiv.org/abs/2510.07743. The authors generate a rubric for each
prompt from a preferred and a rejected answer and keep it if a judge with it finds the
preferred one; `principles=FILE` reads such rubrics. Here one rubric stands for all prompts, and a tiny model with random weights for the judge.
"""

from jaxreward import recipes

RUBRIC = """\
Hard rule: every object that the prompt names is there.
Hard rule: there are as many of each as it says.
Principle: colours and places are those of the prompt.
Principle: the picture is clean and well composed."""


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(fn="vlm_pairwise", principle=RUBRIC, opponents=2, pairs="random")
  recipes.judge_with(config, arg, judge=judge)
  return config
