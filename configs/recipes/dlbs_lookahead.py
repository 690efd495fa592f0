"""DLBS: beam search over latents, scored by a short rollout of the ODE.

Oshima et al. 2025, https://arxiv.org/abs/2501.19252. The authors search videos with a
calibrated sum of video metrics, 4 beams, 2 branches and rollouts of 6 steps; the
reward is the scenes' here, whose 10 steps need shorter rollouts.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  return recipes.steered(
    arg, __file__, num_steps=2 if small else 10,
    name="lookahead_beams", beams=2 if small else 4, branches=2,
    lookahead=2,
  )  # fmt: skip
