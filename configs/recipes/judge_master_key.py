"""Master keys: a judge is taught that a thought which says nothing earns no yes.

Zhao et al. 2025, https://arxiv.org/abs/2507.08794. Answers such as ":" or "Let us think
about it" make judges say yes. The authors add 20,000 answers that are cut after their first
sentence, labelled wrong, to 160,000 others; here half of the questions with a thought,
one in ten to fourteen of all, get up to four words that name nothing instead, and "no". The
aim is a rate of yes near 0 after three other keys (`fooled.keys` of `evaluation.json`, with
intervals); the effect is not measured.
`unverified`: the authors' counts.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.taught_judge(arg, __file__, empty=0.5)
