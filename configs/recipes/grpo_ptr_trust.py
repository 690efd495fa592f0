"""EmotionThinker: a softer reward is phased in, as far as it agrees with the outcome.

Wang et al. 2026, https://arxiv.org/abs/2601.15668 (GRPO-PTR), of a reasoner's answers
there. The trust in the other reward is that of the Trust-GRPO family; its form and the
ramp are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  recipes.reward_with(config, arg, task=1.0, look=0.5)
  right = 0.3 if recipes.size_of(arg) == "full" else 0.75
  config.composition = dict(
    name="trusted_sum", outcome="task", passed=right, ramp=50
  )
  return config
