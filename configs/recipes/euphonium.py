"""Euphonium: the sampler climbs a process reward, and the policy learns to need it not.

Zhong et al. 2026, https://arxiv.org/abs/2602.04928, read in the authors' code: a reward of
noisy latents is climbed in the last quarter of the steps, log-probabilities are those of
the step that was not moved, and each step is also credited with the value of its latents.
As there the process reward comes first and stays: a critic learns from the policy's own
samples while the policy waits. Gradients have length 1 per element, the default of the
authors' code but not of their script, times .01.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.rollout.sampler = dict(name="dance_sde", noise_level=0.25)
  config.rollout.window_size = 0
  config.kernels.implementation = "xla"  # fused steps are not moved
  config.rollout.drift.update(
    player="process", scale=0.01, first=0.75, unit=True
  )
  config.advantage = dict(name="outcome_and_values", process=1.0)
  config.regularizers = dict()
  config.align.split = "samples"
  is_small = recipes.size_of(arg) == "smoke"
  config.align.hold_policy = 1 if is_small else 20
  config.players.process = dict(
    fn="critic", steps=4, until=config.align.hold_policy
  )
  if is_small:
    config.players.process.update(width=8, hidden=32, steps=2)
    config.rollout.drift.first = 0.3
  return config
