"""DR-IRL: credit grows with how hard a prompt is for the policy.

Cheng et al. 2025, https://arxiv.org/abs/2503.18991 (GRPO-S), of texts there, with
hardness by similarity and by the gap to a reference. Here it is the prompt's mean reward
against the others'; the form is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="by_difficulty", sharpness=1.0, clip=5.0)
  return config
