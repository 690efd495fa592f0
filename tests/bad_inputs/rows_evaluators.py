"""Evaluators: entries of `config.eval.evaluators`."""

from tests.bad_inputs.table import Row

BODY = "def number({}):\n  return {}\n"


def row(name, value, *says, text=None, entry="own.fn"):
  return Row(
    name,
    (f"config.eval.evaluators.{entry.partition('.')[0]}", *says),
    {} if text is None else {"my.py": text},
    config="align_scenes.py:smoke",
    overrides={f"eval.evaluators.{entry}": value},
  )


OWN = "{here}/my.py:number"
ROWS = [
  row("an evaluator there is not", "acuracy", 'did you mean "accuracy"'),
  row("an evaluator that is a number", 3, "section", entry="own"),
  row("an option it has not", 3, "no argument", entry="diversity.cells"),
  row("an array nobody offers", OWN, '"image"', 'did you mean "images"',
      text=BODY.format("image", "{}")),
  row("an evaluator that fails in jit", OWN, "my.py:2", "inside jit",
      text=BODY.format("images", '{"x": float(images.mean())}')),
  row("an evaluator of another shape", OWN, '"x" has the shape',
      text=BODY.format("images", '{"x": images.mean((1, 2, 3))}')),
]  # fmt: skip
