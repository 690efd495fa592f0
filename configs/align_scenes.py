"""Aligns the scene policy: `:diffusion_nft` (default), `:flow_grpo`, `:smoke`.

DiffusionNFT: Zheng et al. (2025), arXiv 2509.16117. Flow-GRPO: Liu et al.
(2025), arXiv 2505.05470.
"""

from jaxreward import config as config_lib

OBJECTIVES = ("diffusion_nft", "flow_grpo")


def get_config(arg: str | None = None):
  """The objective by name; add `,smoke` for a few tiny iterations."""
  given = config_lib.parse_arg(arg, objective=OBJECTIVES, smoke=False)
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "align"
  config.eval.checkpoint = "workdir:policy"  # in a pipeline: what was aligned
  config.data.kind_weights = (1, 2, 4, 1, 4, 4)
  if given["objective"] == "flow_grpo":
    config.objective = dict(name="flow_grpo", clip_range=1e-4)
    config.regularizers.kl = dict(fn="step_kl", weight=0.3, form="exact")
    config.rollout.sampler = dict(name="flow_sde", noise_level=0.7)
    config.rollout.update(window_start=0, window_size=4)
    config.optimizer.learning_rate = 5e-5
    config.align.update(iterations=160, updates=2)
  if given["smoke"]:
    config.rollout.update(
      prompts=6, group=4, num_steps=3, microbatch=12, window_size=0
    )
    config.align.update(iterations=4, times=2, updates=2)
    if given["objective"] == "flow_grpo":  # three noisy steps draw no shapes
      config.rollout.update(num_steps=4, window_size=2)
    config.optimizer.warmup_steps = 1
    config.eval.update(
      samples=24, quick_samples=24, every=2, group=2, num_steps=3, microbatch=24
    )
    config.checkpoint.every = 2
  return config
