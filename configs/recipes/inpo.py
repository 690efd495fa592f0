"""InPO: preferences at the latents that really lead to the two samples.

Lu et al. 2025, https://arxiv.org/abs/2503.18454, read in the authors' code: x_t by the
policy's own ODE backwards, 10 steps, beta 2000, 400 updates. Here the ten steps end at
the row's own time, so that no level is left between; each pair costs 20 evaluations of
the network more.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.preference(arg, __file__, name="inpo", beta=100.0)
  config.align.pairs = 1
  if recipes.size_of(arg) == "full":
    config.objective.beta = 2000.0
  return config
