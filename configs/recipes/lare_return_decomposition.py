"""LaRe: rewards of steps that add up to the reward of the sample.

Qu et al. 2025, https://arxiv.org/abs/2412.11120. A small network on features of each step
learns to split the reward; what it misses goes to the last step. There a language model
writes the features of an agent's states; here they are statistics of the latents.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="redistributed")
  config.players.parts = dict(
    fn="return_parts", steps=4, optimizer=dict(learning_rate=3e-3)
  )
  return config
