"""Trains a policy on portraits from nothing: the maker of `package:portraits_base`.

  python -m jaxreward.main --workdir=runs/portraits \
    --config=configs/pretrain_portraits.py

A part of the captions is wrong in one attribute, as captions of web data are, so
that the policy can draw what is asked for, and often does not.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model."""
  smoke = config_lib.parse_arg(arg, smoke=False)["smoke"]
  size = ":smoke" if smoke else ""
  config = config_lib.load_sibling(f"pretrain_scenes.py{size}", __file__)
  config.model.update(image_size=48, patch=12, language="portraits")
  config.data.update(
    source="portraits", grammar="portraits", kind_weights=(1, 3, 1, 3, 1)
  )
  if not smoke:
    config.pretrain.update(steps=900, batch_size=64, caption_corruption=0.25)
    config.eval.every = config.checkpoint.every = 450
  return config
