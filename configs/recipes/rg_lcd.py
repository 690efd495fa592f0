"""RG-LCD: a consistency model that also follows a latent proxy of the reward.

Li et al. 2024, https://arxiv.org/abs/2403.11027. The student predicts the sample at
once; its target is its own average (itself in the authors' code) after a step of the teacher. A small network on
latents learns to prefer what the rewards prefer, and its gradient is followed instead of
theirs: nothing is decoded. The authors train on data, with a guided teacher and random
guidance; here the samples are the policy's own and the teacher is not guided.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="consistency_proxy", reward=0.1)
  config.regularizers = dict()
  recipes.draw_in(config, 3 if recipes.size_of(arg) == "smoke" else 4)
  config.align.gap = 0.1
  config.references.target = dict(rule="decayed", decay=0.95)
  config.players.proxy = dict(fn="latent_proxy", steps=4)
  config.optimizer.learning_rate = 1e-4
  if recipes.size_of(arg) == "smoke":
    config.players.proxy.update(width=8, hidden=32, steps=2)
  return config
