"""Trains a policy that edits portraits from scratch, on edits with an exact answer.

It made `package:portrait_edits_base`.

  python -m jaxreward.main --workdir=runs/portrait_edits \
    --config=configs/pretrain_portrait_edits.py

Some answers are wrong, as in web data: in a quarter, one attribute differs from the
instruction, and in another quarter, an attribute that the instruction does not name
has changed, so that the policy can follow instructions, but often does not.

It is narrower than `package:portraits_base`, so that both together stay small.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model."""
  smoke = config_lib.parse_arg(arg, smoke=False)["smoke"]
  size = ":smoke" if smoke else ""
  config = config_lib.load_sibling(f"pretrain_edits.py{size}", __file__)
  config.model.update(image_size=48, patch=12, language="portraits")
  config.data.update(
    source="portrait_edits",
    grammar="portrait_edits",
    kind_weights=(2, 2, 1, 2, 2, 1, 1, 1, 0),
  )
  if not smoke:
    config.init.checkpoint = ""
    config.model.width = 104
    config.optimizer.learning_rate = 1.5e-2
    config.pretrain.update(steps=3000, caption_corruption=0.25)
    config.eval.every = 1000
    config.checkpoint.every = 500
  return config
