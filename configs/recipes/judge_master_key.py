"""Master keys: a judge learns that a thought which says nothing earns no yes.

Zhao et al. 2025, https://arxiv.org/abs/2507.08794. Answers such as ":" or "Let us think
about it" make judges say yes. The authors add 20,000 answers that are cut after their first
sentence, labelled wrong, to 160,000 others; here half of the questions with a thought,
about one in eight, get up to four words that name nothing instead, and "no". The rate of
yes after three other keys, with intervals, is `fooled.keys` of `evaluation.json`.
`unverified`: the authors' counts.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.taught_judge(arg, __file__, empty=0.5)
