"""Trains a reward model on simulated annotators' preferences between portraits.

  python -m jaxreward.main --workdir=runs/portraits_reward \
    --config=configs/train_reward_portraits.py

Four annotators prefer images that match the prompt; two of them also prefer warm
colours, the others cold ones. A twentieth of the answers is wrong. They compare samples
of `package:portraits_base`.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps on few pictures."""
  smoke = config_lib.parse_arg(arg, smoke=False)["smoke"]
  size = ":smoke" if smoke else ""
  config = config_lib.load_sibling(f"train_reward_scenes.py{size}", __file__)
  config.model.update(image_size=48, patch=12, language="portraits")
  config.data.update(
    source="portraits", grammar="portraits", kind_weights=(1, 3, 2, 4, 1)
  )
  config.reward_model.backbone.update(
    image_size=48, patch=12, language="portraits"
  )
  config.train_reward.source = "portraits"
  config.train_reward.users.update(count=4, weight=0.25)
  if not smoke:
    config.init.checkpoint = "package:portraits_base"
  return config
