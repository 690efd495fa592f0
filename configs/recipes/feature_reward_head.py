"""A reward on chosen features: weights of rewards, fitted to comparisons.

Nath et al. 2024, https://arxiv.org/abs/2402.15473: a small network on scores of an
expert's features needs 940 comparisons. Here it is linear, its features are the rewards
of the config, and no weight is below 0 (not of the paper). Each half of the prompts is
scored with weights of the other half, beside equal weights; `evaluation.json` has the
weights for `config.rewards.NAME.weight`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.judged(arg, __file__, rows=512, views=0, combine="positive")
  del config.rewards["detector"]  # which labels the rows; it is held out
  return config
