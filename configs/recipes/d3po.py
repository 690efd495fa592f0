"""D3PO: the preference between two samples, at each of their steps.

Yang et al. 2023, https://arxiv.org/abs/2311.13231: all pairs of a group, labelled by
people there and by the reward here, no reward model. The authors' beta, .1, belongs
to sums over elements; here it is a mean, and beta 100.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.objective = dict(name="d3po", beta=100.0, clip_range=0.1)
  config.regularizers = dict()
  config.align.updates = 1
  return config
