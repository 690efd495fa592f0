"""Aligns a policy on moving scenes: objects and motions as in the prompt.

  python -m jaxreward.main --config=configs/motion.py --workdir=runs/motion_aligned

The reward is graded: the share of the objects that are present, times their
closeness to a path of the requested motion. Two measures are held out: `moved`, whether
everything is right, and `possible`, whether every motion is physical.

The policy comes from `configs/pretrain_motion.py` with --workdir=runs/motion.
"""

from jaxreward import config as config_lib

OBJECTIVES = ("diffusion_nft", "flow_grpo")
BASE = "runs/motion/policy.safetensors"


def get_config(arg: str | None = None):
  """`:flow_grpo` for that objective, `,smoke` for a few iterations."""
  options = config_lib.parse_arg(arg, objective=OBJECTIVES, smoke=False)
  size = ",smoke" if options["smoke"] else ""
  spec = f"align_scenes.py:{options['objective']}{size}"
  config = config_lib.load_sibling(spec, __file__)
  config.model.update(frames=6, language="motion")
  config.video.frames = 6
  config.data.update(
    source="motion", grammar="motion", kind_weights=(1, 2, 3, 2, 2, 3)
  )
  config.rewards = dict(moves=dict(fn="moves", weight=1.0))
  config.heldout_rewards = dict(
    moved=dict(fn="moved", weight=1.0), possible=dict(fn="possible", weight=1.0)
  )
  if options["smoke"]:
    config.init.checkpoint = ""
    config.model.update(depth=2, width=32, unroll=1)
  else:
    config.init.checkpoint = BASE
    config.rollout.update(prompts=8, group=12, microbatch=96)
    config.align.update(iterations=40, times=2, updates=2)
    config.eval.update(
      samples=240, quick_samples=96, every=20, microbatch=96,
      guidance_scales=(1.0,),
    )  # fmt: skip
    config.checkpoint.every = 20
  return config
