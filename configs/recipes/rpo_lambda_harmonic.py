"""RPO: the harmonic mean of two rewards, in which the weaker one decides.

Miao et al. 2024, https://arxiv.org/abs/2407.12164: lambda .5 between the likeness of
a subject and of the words, which are a picture's look and task here; the pairs are
the policy's own best and worst (`flow_dpo`), where the authors pair a reference
picture with a generated one.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="flow_dpo", beta=100.0)
  recipes.reward_with(config, arg, task=0.5, look=0.5)
  config.composition = dict(name="harmonic")
  config.align.pairs = 1
  return config
