"""Rewards that cannot be judged: `config.eval.preferences`."""

from tests.bad_inputs.table import Row


def row(name, *says, files=None, **fields):
  overrides = {"eval.preferences": "scenes"}
  overrides |= {f"eval.{k.replace('__', '.')}": v for k, v in fields.items()}
  return Row(
    name, says, files or {}, config="evaluate_scenes.py:smoke",
    overrides=overrides,
  )  # fmt: skip


def training(name, *says, config="train_reward_scenes.py:smoke", **fields):
  overrides = {
    f"train_reward.{k.replace('__', '.')}": v for k, v in fields.items()
  }
  return Row(
    name, ("config.train_reward.", *says),
    config=config, overrides=overrides,
  )  # fmt: skip


PAIR = (
  '{{"prompt": "{}", "image_a": "a.png", "image_b": "b.png", "label": "a"}}'
)
FILE = "{here}/p.jsonl"


def implicit(name, *says, **options):
  fields = {f"judged_rewards.implicit.{k}": v for k, v in options.items()}
  return Row(
    name, ("config.judged_rewards.implicit", *says),
    config="evaluate_scenes.py:smoke",
    overrides={"eval.preferences": "scenes",
               "judged_rewards.implicit.fn": "implicit", **fields},
  )  # fmt: skip


ROWS = [
  implicit("no draw of an implicit reward", "draws=0", draws=0),
  implicit("no policy to read a reward in", "none.safetensors",
           weights="{here}/none.safetensors"),
  row("looks by nobody", 'config.eval.steering.by="noisy"', "there are detector",
      preferences="", steering__name="pruned", steering__by="noisy"),
  row("no rows", "config.eval.judging.rows=1", "at least 2", judging__rows=1),
  row("no rows at once", "config.eval.judging.rows_at_once=0",
      judging__rows_at_once=0),
  row("a fit there is not", 'combine="positiv"', 'did you mean "positive"',
      judging__combine="positiv"),
  row("a fit of one reward", 'combine="any"', "two rewards",
      judging__combine="any"),
  row("a gate of words", "gate.pearson=high", "a number from -1 to 1",
      judging__gate__pearson="high"),
  row("a gate in percent", "gate.pearson=80", "a number from -1 to 1",
      judging__gate__pearson=80),
  row("a gate of a negative error", "gate.error=-0.1", "a number >= 0",
      judging__gate__error=-0.1),
  row("a gate beside no ratings", "gate.pearson=0.8", "config.eval.preferences",
      preferences="", judging__gate__pearson=0.8),
  row("training prompts as the test", "config.eval.judging.inside",
      preferences="train"),
  row("a file that is not there", "eval.preferences", "p.jsonl",
      preferences=FILE),
  training("a reference and no right image", "renders=1",
           pictures__reference=True, pictures__renders=1),
  training("images spoiled from nothing", "renders=0", "spoiled to 0",
           pictures__renders=0),
  training("no model to start from", "init_from", "none.safetensors",
           init_from="{here}/none.safetensors"),
  training("frames of drawn images", "frames=3", "draws images", frames=3),
  training("a look after the last step", "sampling.estimates=(3, 1)",
           "from 1 to 2", sampling__estimates=(3, 1)),
  training("estimates of renders", "sampling.estimates=(2, 1)", "renders=2 to 0",
           sampling__estimates=(2, 1)),
  training("patience that may end before the last look", "sampling.estimates=(2, 1)",
           "patience=1", sampling__estimates=(2, 1), evaluate_every=1,
           save_every=1, early_stopping__patience=1),
  training("more stages than steps", "sampling.estimates=(2, 1)", "steps=1",
           sampling__estimates=(2, 1), steps=1),
  training("estimates of a file", "sampling.estimates=(1,)", "leave it empty",
           sampling__estimates=(1,), source="{here}/p.jsonl"),
  training("labels of nobody", 'labels="me"', labels="me"),
  training("less than no patience", "early_stopping.patience=-1",
           early_stopping__patience=-1),
  training("patience for nothing", 'metric="loss"',
           early_stopping__metric="loss"),
  training("patience without saves", "save_every",
           early_stopping__patience=2, save_every=0),
  training("curation there is not", 'did you mean "consensus"',
           curation__name="concensus"),
  training("a share above one", "curation.flip=2", "must lie in",
           config="recipes/preference_strength_curation.py:smoke",
           curation__flip=2.0),
  training("no proxies", "proxies.members=0", proxies__members=0),
  row("words that the task does not know", "p.jsonl", "poodle",
      'config.data.grammar="free"', preferences=FILE,
      files={"p.jsonl": PAIR.format("a poodle")}),
  row("ties alone", "p.jsonl", "of 1 rows none has a pair with a winner",
      preferences=FILE,
      files={"p.jsonl": PAIR.format("a cross").replace('"a"', '"tie"')}),
  row("an image that is not there", "p.jsonl", "a.png", preferences=FILE,
      files={"p.jsonl": PAIR.format("a cross")}),
]  # fmt: skip
