"""RM-R1: a judge that reasons, and learns from whether its verdicts are right.

Chen et al. 2025, https://arxiv.org/abs/2505.02387. GRPO over eight thoughts for each
question: 1 for the right verdict, -1 for a wrong one or none, and a weight on the judge it
begins with. That judge has learned to think from exact thoughts (the authors distil them);
it names what a picture shows before its verdict, where theirs writes rubrics. `unverified`:
the weight of the reference.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.by_verdicts(dict(name="signed"), arg, __file__)
