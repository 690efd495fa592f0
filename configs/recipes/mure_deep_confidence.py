"""MURE: at every stage several candidates are drawn, and a judge keeps the best.

Zou et al. 2025, https://arxiv.org/abs/2510.08157, of edits as chains of texts and images:
five candidates at every visual stage, and the one of the highest score goes on. With an
exact judge of stages a chain of S succeeds with probability (1 - (1 - p)^5)^S. Here a stage
is a step of the sampler, a candidate is seen as what a short rollout makes of it, and the
judge that ships says how probably it shows the prompt; the authors train the chain too.
`unverified`: the judge's question.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, num_steps=2 if small else 10, name="lookahead_beams",
    beams=1, branches=2 if small else 5, lookahead=2,
  )  # fmt: skip
  return recipes.steered_by_judge(config)
