"""Teaches a policy to edit portraits: from `package:portraits_base` to one that
starts from a picture, on edits with an exact answer.

  python -m jaxreward.main --workdir=runs/portrait_edits \
    --config=configs/pretrain_portrait_edits.py
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model, from nothing."""
  smoke = config_lib.parse_arg(arg, smoke=False)["smoke"]
  size = ":smoke" if smoke else ""
  config = config_lib.load_sibling(f"pretrain_portraits.py{size}", __file__)
  config.model.takes_source = True
  config.data.update(
    source="portrait_edits",
    grammar="portrait_edits",
    kind_weights=(2, 2, 1, 2, 2, 1, 1, 1),
  )
  config.pretrain.caption_corruption = 0.0  # of prompts without pictures
  if not smoke:
    config.init.checkpoint = "package:portraits_base"
    config.optimizer.learning_rate = 1e-2
    config.pretrain.update(steps=700, batch_size=64)
    config.eval.every = config.checkpoint.every = 350
  return config
