"""Stream-R1: matching weighed by the reward of a sample, and by where the reward looks.

Wu et al. 2026, https://arxiv.org/abs/2605.03849: rollouts weigh exp(reward), and places
of one by the size of the reward's gradient. Of videos there, which also have weights over
time; constants are unverified. On scenes a reward model is trained first.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.distilled(arg, __file__, name="salient_matching")
  config.advantage = dict(name="exponential", tau=1.0, most=5.0, among="group")
  return recipes.differentiable(config, arg, __file__, "pick")
