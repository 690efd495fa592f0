"""P-GenRM: rubrics of a user, averaged, beside those of users alike.

Zhang et al. 2026, https://arxiv.org/abs/2602.12116, of answers in words there: a judge
derives rubrics from what a user has preferred, several are averaged, and so are those of
users of the same cluster. Here rubrics are given in words, three of one user and two of
others, for all prompts, and each is followed by one judge (`principle`); nothing is derived
from a history, and nobody is clustered. A new user's part is that of the others.
`unverified`: the share of .7, and the numbers of rubrics. A tiny model with random weights
stands in for the judge on scenes.
"""

from jaxreward import recipes

OWN = {
  "warm": "Warm colours are better than cold ones.",
  "sparse": "Few objects with much space between them are better.",
  "large": "Large objects are better than small ones.",
}
OTHERS = {
  "bright": "Bright pictures are better than dark ones.",
  "calm": "An even background without texture is better.",
}


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  judges = {
    name: dict(fn="vlm_pointwise", principle=text)
    for name, text in {**OWN, **OTHERS}.items()
  }
  recipes.judge_with(config, arg, **judges)
  config.composition = dict(
    name="own_and_others", own=tuple(OWN), others=tuple(OTHERS), share=0.7
  )
  return config
