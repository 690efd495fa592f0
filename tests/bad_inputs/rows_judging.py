"""Rewards that cannot be judged: `config.eval.preferences`."""

from tests.bad_inputs.table import Row


def row(name, *says, files=None, **fields):
  overrides = {"eval.preferences": "scenes"}
  overrides |= {f"eval.{k.replace('__', '.')}": v for k, v in fields.items()}
  return Row(
    name, says, files or {}, config="evaluate_scenes.py:smoke",
    overrides=overrides,
  )  # fmt: skip


PAIR = (
  '{{"prompt": "{}", "image_a": "a.png", "image_b": "b.png", "label": "a"}}'
)
FILE = "{here}/p.jsonl"
ROWS = [
  row("no rows", "config.eval.judging.rows=1", "at least 2", judging__rows=1),
  row("no rows at once", "config.eval.judging.rows_at_once=0",
      judging__rows_at_once=0),
  row("training prompts as the test", "config.eval.judging.inside",
      preferences="train"),
  row("a file that is not there", "eval.preferences", "p.jsonl",
      preferences=FILE),
  row("words that the task does not know", "p.jsonl", "poodle",
      'config.data.grammar="free"', preferences=FILE,
      files={"p.jsonl": PAIR.format("a poodle")}),
  row("an image that is not there", "p.jsonl", "a.png", preferences=FILE,
      files={"p.jsonl": PAIR.format("a cross")}),
]  # fmt: skip
