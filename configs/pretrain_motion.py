"""Trains a policy on moving scenes from nothing.

  python -m jaxreward.main --workdir=runs/motion \
    --config=configs/pretrain_motion.py

Videos of 8 frames of 24 x 24 pixels; a token is a patch of two frames. A part of
the videos is not as their captions say: the object moves in another way, jumps, or
changes its colour or shape, so that the policy can draw what is asked for, and often
does not.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model."""
  options = config_lib.parse_arg(arg, smoke=False)
  size = ":smoke" if options["smoke"] else ""
  config = config_lib.load_sibling(f"pretrain_scenes.py{size}", __file__)
  config.model.update(
    image_size=24, patch=8, frames=8, patch_frames=2, language="motion"
  )
  config.video.frames = 8
  config.data.update(
    source="motion", grammar="motion", kind_weights=(1, 2, 3, 1, 1, 2)
  )
  if not options["smoke"]:
    config.model.update(width=96, place_axes=True)
    config.pretrain.update(steps=1300, batch_size=64, caption_corruption=0.4)
    config.eval.update(samples=240, quick_samples=48, microbatch=48)
    config.eval.every = config.checkpoint.every = 650
  return config
