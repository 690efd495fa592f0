"""AC-Flow: flow matching weighed by what a critic did not expect.

Fan et al. 2025, https://arxiv.org/abs/2510.18072. A small critic predicts the
reward from noisy latents; the policy learns its own samples, weighed by a clipped
exponential of what they earned beyond it, near the reference in velocity. The critic
learns alone at first. No code is public: shaping, temperature, clip, anchor and
warm-up are unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="ac_flow", temperature=2.0, adv_clip=0.5)
  config.advantage = dict(name="whitened")
  config.regularizers = dict(anchor=dict(fn="velocity_distance", weight=0.1))
  config.players.critic = dict(
    fn="critic", steps=4, optimizer=dict(name="adamw", learning_rate=1e-3)
  )
  config.align.hold_policy = 10
  if recipes.size_of(arg) == "smoke":
    config.players.critic.update(width=8, hidden=32, steps=2)
    config.align.hold_policy = 0
  return config
