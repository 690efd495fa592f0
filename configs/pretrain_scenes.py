"""Trains the scene policy from scratch; it made `package:scenes_base`."""

from jaxreward import config as config_lib

CONDITIONS = ("text", "class")


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model; `:class` knows no words.

  A policy of `:class` draws prompts of one item by their class alone; jobs that
  go on with it take `--config.model.condition=class` too.
  """
  given = config_lib.parse_arg(arg, condition=CONDITIONS, smoke=False)
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "pretrain"
  config.init.checkpoint = ""
  config.optimizer.update(
    name="muon",
    learning_rate=1.5e-2,
    schedule="cosine",
    warmup_steps=100,
    b2=0.99,
  )
  config.optimizer.adam_scale = 0.15
  config.optimizer.final_scale = 0.0
  config.optimizer.matrices = r"^(?!.*modulation).*kernel$"
  config.data.kind_weights = (1, 2, 2, 1, 3, 3)
  config.ema.decay = 0.995
  config.eval.every = 500
  config.checkpoint.every = 500
  config.model.condition = given["condition"]
  if given["smoke"]:
    config.pretrain.update(steps=6, batch_size=16)
    config.optimizer.warmup_steps = 2
    config.model.update(width=32, depth=2, unroll=1)
    config.eval.update(samples=24, quick_samples=24, every=3, microbatch=24)
    config.checkpoint.every = 3
  return config
