"""A listener's reward: a thought is worth how far it convinces somebody else.

Gambashidze et al. 2025, https://arxiv.org/abs/2506.22832. Beside the verdict and its form
a thought earns the probability of the right verdict for a frozen judge that reads the
thought alone; a thought that contradicts its verdict earns less. The listener is the judge
that training begins with. `unverified`: the weight of 1/2.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  rule = dict(name="listened", weight=0.5)
  return recipes.by_verdicts(rule, arg, __file__)
