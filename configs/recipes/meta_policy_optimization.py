"""Meta Policy Optimization: the judge's rubric changes while the policy learns.

Kim et al. 2025, https://arxiv.org/abs/2504.20157: a second judge reads recent samples with
their scores, sees whether the rubric is exploited or no longer tells samples apart, and
rewrites it; PPO follows the rubric in force. Here three versions are written in advance and
all of them score: the one in force is followed, and every tenth iteration it gives way if
its mean has reached .9 or it contradicts the next version. Scores of two versions are never
compared. A tiny model with random weights stands in for the judge on scenes. `unverified`:
iterations between reviews, their window, and how a review is made.
"""

from jaxreward import recipes

RUBRICS = (
  "What the prompt names is there.",
  "What the prompt names is there, as many times as it says and no more.",
  "What the prompt names is there, as many times as it says and no more, in the"
  " colours and places it says; a picture that repeats one thing is bad.",
)


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judges = {
    f"rubric_{i + 1}": dict(fn="vlm_pointwise", principle=text)
    for i, text in enumerate(RUBRICS)
  }
  recipes.judge_with(config, arg, **judges)
  every = 2 if recipes.size_of(arg) == "smoke" else 10
  config.advantage = dict(name="revised", versions=tuple(judges), every=every)
  return config
