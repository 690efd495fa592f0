"""HP-DMD: distribution matching in which better samples of the student weigh more.

Hallo-Live, https://arxiv.org/abs/2604.23632: weights exp(z / T) of mean 1, with three
rewards of videos there. No code is public: T and the largest weight are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.distilled(arg, __file__, name="distribution_matching")
  config.advantage = dict(name="exponential", tau=1.0, most=5.0, among="group")
  return config
