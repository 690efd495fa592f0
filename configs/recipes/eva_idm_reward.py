"""EVA: videos are rewarded for motion that a robot could carry out.

https://arxiv.org/abs/2603.17808, read in the abstract: an inverse dynamics model reads
joints from videos of a world model, and smoothness and limits are the reward of GRPO.
The form of the reward is unverified. Here the path of what stands out in the frames is
judged (`rewards.motion`).

On moving scenes the exact inverse dynamics stand beside it, the displacements from frame
to frame against those that the words ask for: smoothness alone is best for what stands.

The policy comes from `configs/pretrain_motion.py` with --workdir=runs/motion.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """On moving scenes; `:smoke` in miniature, `:full` for Wan 2.1 of 1.3B."""
  config = recipes.of_motion("flow_grpo", arg, __file__, "acts")
  config.rewards.motion = dict(fn="executable", weight=1.0, fps=8.0)
  return config
