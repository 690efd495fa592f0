"""Runs that could teach nothing, or would go on with something else."""

from etils import epath
from ml_collections import ConfigDict

from jaxreward import inputs
from tests.bad_inputs.table import Row

PROMPTS = "a red circle\na blue square\n"


def changed(name, field, value, before, *says):
  """A run that was begun with files of this content, and finds others."""
  *sections, last = field.split(".")
  tree: dict = {last: value}
  for section in reversed(sections):
    tree = {section: tree}

  def call(here):
    filled = value.replace("{here}", str(here))
    config = ConfigDict(tree)
    node = config
    for section in sections:
      node = node[section]
    node[last] = filled
    file = here / before[0]
    later = file.read_bytes()
    file.write_text(before[1])
    inputs.check(epath.Path(here), config)
    file.write_bytes(later)
    inputs.check(epath.Path(here), config)

  return Row(
    name, (f"config.{field}=", "has changed", "inputs.json", *says),
    {before[0]: PROMPTS}, call=call,
  )  # fmt: skip


ROWS = [
  changed(
    "prompts that were cut", "data.source", "{here}/p.txt",
    ("p.txt", PROMPTS + "a green ring\n"), "bytes then",
  ),
  changed(
    "prompts of the same size", "data.source", "{here}/p.txt",
    ("p.txt", PROMPTS.replace("red", "tan")), "27 bytes now",
  ),
  changed(
    "weights", "init.checkpoint", "{here}/w.safetensors",
    ("w.safetensors", "other"), "5 bytes then",
  ),
  changed(
    "weights of a pipeline's folder", "model.weights", "{here}/w:transformer",
    ("w/transformer/x.safetensors", "other"), "1 files now",
  ),
  changed(
    "weights of a reward", "rewards.pick.weights", "{here}/pick.safetensors",
    ("pick.safetensors", "other"), "5 bytes then",
  ),
  changed(
    "references", "rewards.ssim.references", "{here}/refs",
    ("refs/a.png", "other"), "1 files",
  ),
  Row(
    "every weight is 0", ("rewards.detector.weight=0", "nothing to learn"),
    overrides={"rewards.detector.weight": 0.0},
  ),
  Row(
    "two weights that are 0", ("weight=0", "nothing to learn"),
    overrides={
      "rewards.detector.weight": 0.0, "rewards.other.fn": "strict",
      "rewards.other.weight": 0.0,
    },
  ),
]  # fmt: skip
