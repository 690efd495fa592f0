"""Trains the scene policy, `package:scenes_base`, to edit images.

All edits have an exact answer.

  python -m jaxreward.main --workdir=runs/edits \
    --config=configs/pretrain_edits.py
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model, from nothing."""
  smoke = config_lib.parse_arg(arg, smoke=False)["smoke"]
  size = ":smoke" if smoke else ""
  config = config_lib.load_sibling(f"pretrain_scenes.py{size}", __file__)
  config.model.takes_source = True
  config.data.update(
    source="edits", grammar="edits", kind_weights=(1, 1, 1, 1, 1, 1)
  )
  config.pretrain.caption_corruption = 0.0  # of prompts without pictures
  if not smoke:
    config.init.checkpoint = "package:scenes_base"
    config.optimizer.learning_rate = 5e-3
    config.pretrain.update(steps=2000, batch_size=64)
  return config
