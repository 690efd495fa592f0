"""PPR: rewards of steps are shifted by the outcome, so that failures cannot gain.

Xu et al. 2025, https://arxiv.org/abs/2509.25598 (ReNorm), of an agent's steps there.
Here a step is worth the reward of its latents, finished by the ODE. The form has the
published property and is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="renormalised", clip=5.0)
  return config
