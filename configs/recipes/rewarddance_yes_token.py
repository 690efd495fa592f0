"""RewardDance: the reward is the probability of "yes, better than the reference".

Wu et al. 2025, https://arxiv.org/abs/2509.08826. A judge sees a reference and an image of
one prompt and says whether the image is better; over its two answers the probability is
sigmoid(l_yes - l_no), whose logit differs as qualities do. The authors' reference is the
best of N; here it is the first sample of each group, which gets no reward and is not
learned from. `unverified`: whether their probability is over
all tokens, and N. A tiny model with random weights stands in for the judge on scenes.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judge = dict(
    fn="vlm_pairwise", template="better_than_reference", pairs="first",
    swap=False, words=("no", "yes"),
  )  # fmt: skip
  recipes.judge_with(config, arg, judge=judge)
  return config
