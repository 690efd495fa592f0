"""Aligns a policy on portraits: what is read from a picture against its words.

  python -m jaxreward.main --workdir=runs/portraits_aligned \
    --config=configs/portraits.py

The reward is the graded share of the attributes that a prompt names; whether all
of them are right and nothing else is drawn, `right`, is held out, and so is how well
the picture is drawn, `drawn`. Prompts are
descriptions of one or two people; held-out ones are combinations, and in the
category "reworded" sentences, that no training prompt has.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` for a few tiny iterations; `:flow_grpo` for that objective."""
  spec = f"align_scenes.py:{arg}" if arg else "align_scenes.py"
  config = config_lib.load_sibling(spec, __file__)
  config.model.update(image_size=48, patch=12, language="portraits")
  config.data.update(
    source="portraits", grammar="portraits", kind_weights=(1, 3, 2, 4, 1)
  )
  config.rewards = dict(attributes=dict(fn="attributes", weight=1.0))
  config.heldout_rewards = dict(
    right=dict(fn="right", weight=1.0), drawn=dict(fn="drawn", weight=1.0)
  )
  if config.align.iterations < 10:  # smoke
    config.eval.guidance_scales = (1.0,)
    config.model.update(depth=2, width=64, unroll=1)
    config.init.checkpoint = ""
  else:
    config.init.checkpoint = "package:portraits_base"
    config.align.iterations = 100
  return config
