"""RewardAnything: a principle in words says what a list of images is scored by.

Yu et al. 2025, https://arxiv.org/abs/2506.03637, of answers in words there: one reading
of the principle, the prompt and several candidates, a thought, and a score from 1 to 5
for each. Each candidate stands everywhere in the list once. A tiny model with random
weights stands in for the judge on scenes.
"""

from jaxreward import recipes

PRINCIPLE = (
  "The number of objects matters most, then their colours; the look does not."
)


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(
    fn="vlm_listwise", members=2, orders=2, answer="score", think=256,
    principle=PRINCIPLE,
  )  # fmt: skip
  recipes.judge_with(config, arg, judge=judge)
  return config
