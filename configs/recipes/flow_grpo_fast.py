"""Flow-GRPO-Fast: noise and training in a window of a few steps, drawn in every iteration.

Liu et al. 2025, https://arxiv.org/abs/2505.05470, the fast configs of the authors' code for
SD3: 3 of the first 5 of 10 steps, coefficients-preserving noise .8, the ODE elsewhere, clip
1e-5, no KL and no guidance.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = 1 if recipes.size_of(arg) == "smoke" else 3
  config.objective.clip_range = 1e-5
  config.regularizers = dict()
  config.rollout.sampler = dict(name="cps", noise_level=0.8)
  config.rollout.update(window_start=0, window_size=size, guidance_scale=1.0)
  config.rollout.window_move = dict(
    name="drawn", last=config.rollout.num_steps // 2
  )
  config.align.split = "samples"
  return config
