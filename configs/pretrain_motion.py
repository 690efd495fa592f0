"""Trains a policy on moving scenes, from the image policy of the scenes.

  python -m jaxreward.main --workdir=runs/motion \
    --config=configs/pretrain_motion.py

Videos of 6 frames of 36 x 36 pixels. The policy starts from `package:scenes_base`,
an image policy: at step 0 every frame is an image from its own noise, and training
makes the frames consistent. Some videos do not match their captions: the object moves in
another way, jumps, or changes its colour or shape, so that the policy can follow
prompts, but often does not.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model."""
  options = config_lib.parse_arg(arg, smoke=False)
  size = ":smoke" if options["smoke"] else ""
  config = config_lib.load_sibling(f"pretrain_scenes.py{size}", __file__)
  config.model.update(frames=6, language="motion")
  config.video.frames = 6
  config.data.update(
    source="motion", grammar="motion", kind_weights=(1, 2, 3, 1, 1, 2)
  )
  if not options["smoke"]:
    config.init.checkpoint = "package:scenes_base"
    config.optimizer.update(learning_rate=1e-2, warmup_steps=40)
    config.pretrain.update(steps=800, batch_size=32, caption_corruption=0.3)
    config.eval.update(samples=240, quick_samples=24, microbatch=48)
    config.eval.every = config.checkpoint.every = 200
  return config
