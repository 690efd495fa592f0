"""Credit relative to each prompt's own history, as DDPO takes it.

Black et al. 2023, https://arxiv.org/abs/2305.13301: 16 rewards per prompt, with
the clipped ratio objective on the steps of a flow policy.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="per_prompt", buffer_size=16, min_count=16)
  return config
