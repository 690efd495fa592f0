"""Trains a judge of the scenes from scratch.

A vision-language model in the layout of Qwen3-VL, with words and digits as its
vocabulary, learns to answer the judges' questions about scenes whose attributes are
known: yes or no, how many, which colour, a score, which of two, a description, and a
thought before the answer. Set a judge's `weights` to the folder WORKDIR/judge.
"""

from ml_collections import ConfigDict

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps of a tiny model."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "pretrain"
  config.init.checkpoint = ""
  config.judge = ConfigDict(
    dict(
      weights="",  # initial judge, whose sizes are then used
      tasks=("scenes", "portraits"),
      # Images of each task per step, as multiples of pretrain.batch_size.
      images=dict(scenes=1.0, portraits=1.0),
      # Weights in the loss, per token of the answer, of each kind of question.
      kinds=dict(
        prompt=6.0,
        exists=6.0,
        relation=6.0,
        people=1.0,
        count=4.0,
        colour=2.0,
        score=3.0,
        quality=3.0,
        describe=1.0,
        thought=1.0,
        compare=6.0,
        done=12.0,
        kept=12.0,
        following=3.0,
        keeping=3.0,
      ),
      # share of the questions with a thought whose thought is empty and answer "no"
      empty=0.0,
      short=3,  # questions with a short answer per image, besides long ones
      width=128,
      depth=4,
      heads=4,
      groups=1,
      mlp=256,
      vision_width=128,
      vision_depth=3,
      vision_heads=4,
      vision_mlp=256,
      patch=6,  # pixels; a token is a cell of the scenes' grid
    )
  )
  config.verdicts = ConfigDict(
    dict(
      rule=dict(name="none"),  # reward of a verdict; "none": supervised answers
      samples=8,  # answers of a question
      length=40,  # largest number of tokens of an answer
      kl=0.02,  # weight of the KL to the initial judge
      credit="group",  # or "reward": without a comparison in the group
    )
  )
  config.pretrain.update(part="judge", steps=1050, batch_size=12)
  config.optimizer.update(
    name="muon", learning_rate=1e-2, schedule="cosine", warmup_steps=30,
    b2=0.99,
  )  # fmt: skip
  config.optimizer.adam_scale = 0.2
  config.optimizer.final_scale = 0.0
  config.ema.decay = 0.99
  config.eval.update(samples=512, quick_samples=64, every=350)
  config.checkpoint.every = 175
  if config_lib.parse_arg(arg, smoke=False)["smoke"]:
    config.judge.update(
      width=32, depth=2, heads=2, groups=1, mlp=48, vision_width=32,
      vision_depth=1, vision_heads=2, vision_mlp=48,
    )  # fmt: skip
    config.pretrain.update(steps=6, batch_size=8)
    config.verdicts.update(samples=4, length=6)
    config.optimizer.warmup_steps = 2
    config.eval.update(samples=32, quick_samples=16, every=3)
    config.checkpoint.every = 3
  return config
