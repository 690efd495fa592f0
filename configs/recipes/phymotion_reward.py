"""PhyMotion: videos of people are rewarded for motion that physics allows.

Huang et al. 2026, https://arxiv.org/abs/2605.14269, read in the authors' code: meshes of
people are recovered from videos, and a kinematic, a contact and a dynamic score are the
reward of DiffusionNFT at beta .1, with HPSv3 beside it as an option. Without a network
for meshes the body is three points of what stands out in a frame (`rewards.bodies`).

Moving scenes stand in for the authors' videos: what their words ask for is measured
exactly, in the place of HPSv3, and the exact verdict on physics is held out.

The policy comes from `configs/pretrain_motion.py` with --workdir=runs/motion.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """On moving scenes; `:smoke` in miniature, `:full` for Wan 2.1 of 1.3B."""
  config = recipes.of_motion("diffusion_nft", arg, __file__, "moves")
  config.rewards.body = dict(fn="feasible", weight=1.0, fps=8.0)
  config.objective.beta = 0.1
  return config
