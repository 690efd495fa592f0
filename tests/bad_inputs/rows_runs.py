"""Runs that could teach nothing, or would go on with something else."""

from etils import epath
from ml_collections import ConfigDict

from jaxreward import inputs, workdirs
from tests.bad_inputs.table import Row

PROMPTS = "a red circle\na blue square\n"


def go_on(here, config):
  run = epath.Path(here) / "run"
  run.mkdir(exist_ok=True)
  inputs.check(run, config, workdirs.read_record(run / inputs.FILE))


def changed(name, field, value, before, *says, files=None):
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
    go_on(here, config)
    file.write_bytes(later)
    go_on(here, config)

  return Row(
    name, (f"config.{field}=", "has changed", "inputs.json", *says),
    {before[0]: PROMPTS} | (files or {}), call=call,
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
  changed(
    "prompts of a folder, of the same size", "data.source", "{here}/d",
    ("d/train.txt", PROMPTS.replace("red", "tan")), "1 files",
  ),
  changed(
    "a reference of the same size", "rewards.ssim.references", "{here}/refs",
    ("refs/a.png", "x" * len(PROMPTS)), "1 files",
  ),
  changed(
    "a picture of a prompt", "data.source", "{here}/p.jsonl",
    ("x/a.png", "other"), "bytes and 1 pictures",
    files={"p.jsonl": '{"prompt": "a", "image": "x/a.png"}\n'},
  ),
  changed(
    "a picture of a pair", "train_reward.source", "{here}/d/p.jsonl",
    ("a.png", "x" * len(PROMPTS)), "bytes and 1 pictures",
    files={"d/p.jsonl": '{"image_a": "../a.png", "image_b": "no.png"}\n'},
  ),
  changed(
    "prompts below a folder of code", "data.source", "{here}/x.py/p.txt",
    ("x.py/p.txt", "other"), "5 bytes then",
  ),
  *(
    Row(
      f"inputs.json: {name}", ("inputs.json is damaged", *says),
      {"run/inputs.json": content},
      call=lambda here: go_on(here, ConfigDict({"a": "b"})),
    )
    for name, content, *says in (
      ("a list", "[]", "expected an object"),
      ("null", "null", "expected an object"),
      ("a number", '{"data.source": 5}', "data.source is 5"),
      ("depth", '{"a":' * 9999, "nested too deeply"),
      ("Latin-1", b'{"a": "\xe9"}', "not UTF-8"),
      ("NUL", b"{}\0", "is NUL"),
      ("cut short", '{"a": "b', "is not JSON"),
    )
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
