"""Config files, what is set on the command line, sweeps and recorded configs."""

import json

import numpy as np

from jaxreward import config as config_lib
from tests import tiny
from tests.bad_inputs.table import QUICK, Row

SOUND = (
  "def get_config():\n  return {'job': 'align', 'seed': 0, 'note': None}\n"
)


def _file(name: str, content, *says: str, file: str = "c.py") -> Row:
  """A config file of a person's own."""
  return Row(
    f"file: {name}", says, {"c.py": content}, f"{{here}}/{file}"
  )  # fmt: skip


def _set(name: str, field: str, value: str, *says: str) -> Row:
  return Row(f"set: {name}", says, overrides={field: value})


def _sweep(name: str, body: str, *says: str) -> Row:
  return Row(
    f"sweep: {name}", says, {"s.py": f"def get_sweep():\n  {body}\n"},
    options=("--sweep={here}/s.py", "--dry-run"),
  )  # fmt: skip


def _recorded(name: str, content, *says: str) -> Row:
  return Row(
    f"recorded: {name}",
    ("run/config.json is damaged", *says),
    {"run/config.json": content},
  )


def _record(name: str, content, *says: str) -> Row:
  """One that the job export reads, and nothing else of the run."""
  return Row(
    f"read: {name}", ("config.json", "damaged", *says),
    {"run/config.json": content}, "export.py",
  )  # fmt: skip


def _with_a_kl(path):
  """The record of a run of version 0.1: the KL was the objective's."""
  config = tiny.load("align_scenes.py:flow_grpo,smoke")
  with config.unlocked():
    config.objective.kl = 0.04
    del config["players"], config["references"], config["regularizers"]
  path.write_text(config_lib.to_json(config))


def _folder(path):
  path.mkdir()


def _no_memory(here, monkeypatch):
  def take(*_, **__):
    np.empty(2**62, np.int8)

  monkeypatch.setattr("jaxreward.workdirs.take", take)


def _too_deep(here, monkeypatch):
  def take(*_, **__):
    return take()

  monkeypatch.setattr("jaxreward.workdirs.take", take)


ROWS = [
  _file("UTF-16", SOUND.encode("utf-16"), "c.py", "SyntaxError"),
  _file("NUL", "x = 1\0\n" + SOUND, "c.py", "null bytes"),
  _file("Latin-1", f"x = 'caf\xe9'\n{SOUND}".encode("latin-1"), "c.py", "utf-8"),
  _file("a wrong encoding", f"# coding: klingon\n{SOUND}", "c.py", "klingon"),
  _file("tabs and blanks", "def get_config():\n\tx=1\n        y=1\n", "c.py:3"),
  _file("depth", "x = " + "(" * 500 + "\n", "c.py:1", "SyntaxError"),
  _file("nothing", "", "defines no function get_config"),
  _file("a byte-order mark in the middle", f"\ufeff\ufeff{SOUND}", "c.py"),
  _file("a section that is missing", SOUND, "the config lacks", "base.py"),
  _file("a huge number", "def get_config():\n  return {'job': 'align', 'seed': 10**5000}\n", "config.seed"),
  _file("a key that is no text", "def get_config():\n  return {'job': 'align', 'data': {1: 2}}\n", "config.data has the key 1"),
  _file("a dict in itself", "def get_config():\n  x = {'job': 'align'}\n  x['x'] = x\n  return x\n", "nested too deeply"),
  _file("5000 sections", "def get_config():\n  x = {}\n  for _ in range(5000):\n    x = {'a': x}\n  return {'job': 'align', 'x': x}\n", "nested too deeply"),
  _file("a config that is cancelled", "import asyncio\ndef get_config():\n  raise asyncio.CancelledError\n", "c.py:3: CancelledError"),
  _file("an import that is left", "raise GeneratorExit\n", "c.py:1: GeneratorExit"),
  _file("an error without text", "class Odd(Exception):\n  __str__ = None\ndef get_config():\n  raise Odd\n", "c.py:4: Odd: (its text cannot be had"),
  _set("3000 sections", "rewards" + ".a" * 3000, "1", "nested too deeply"),
  _set("a billion pictures", "rollout.group", "1000000000", "config.rollout.group=1000000000", "more than 10,000,000"),
  _set("a billion to evaluate", "eval.samples", "1000000000", "config.eval.samples=1000000000", "at most 10,000,000"),
  Row("no memory", ("not enough memory", "config.rollout.prompts"), prepare=_no_memory),
  Row("too deep for Python", ("nested too deeply",), prepare=_too_deep),
  _file("a folder", _folder, "it is a folder, not a file"),
  _file("another name", SOUND, "no such file", "c.py", file="d.py"),
  _file("a name with brackets", SOUND, "no such file", file="[*].**"),
  Row("file: a long name", ("too long",), config="{here}/" + "x" * 300 + ".py"),
  Row("file: NUL in its name", ("no NUL",), config="{here}/a\0.py"),
  Row("file: file://", ("without file://",), config="file:///c.py", options=("--config=file:///c.py",)),
  Row("file: a home of nobody", ("home folder",), options=("--config=~nobody-at-all/c.py",)),
  _set("an empty name", "", "1", "names of fields are words"),
  _set("dots in a row", "eval..seed", "1", "names of fields are words"),
  _set("a dot at the end", "seed.", "1", "names of fields are words"),
  _set("a dot at the start", ".seed", "1", "names of fields are words"),
  _set("a line break in a name", "se\ned", "1", "names of fields are words"),
  _set("NUL in a name", "rewards.a\0b.fn", "jpeg", "names of fields are words"),
  _set("a blank in a name", "rewards. .fn", "jpeg", "names of fields are words"),
  _set("a reward with a slash", "rewards.a/b.fn", "jpeg_compressibility", "'a/b'"),
  _set("a reward with brackets", "rewards.a[0].fn", "jpeg_compressibility", "'a[0]'"),
  _set("a long name", "x" * 5000, "1", "no such field"),
  _set("5000 digits", "seed", "9" * 5000, "expected an integer"),
  _set("a large seed", "seed", "1" * 400, "seed"),
  _set("overflow", "optimizer.learning_rate", "1e999", "learning_rate=inf"),
  _set("no number", "optimizer.learning_rate", "nan", "learning_rate=nan"),
  _set("NUL in a number", "seed", "1\0", "expected an integer"),
  _set("a line break in a number", "align.iterations", "1\n2", "expected an integer"),
  _set("letters that look like digits", "seed", "l0", "expected an integer"),
  _set("a minus of typography", "seed", "\u22121", "expected an integer"),
  _set("depth", "data.kind_weights", "[" * 5000, "kind_weights"),
  _set("a long text", "job", "x" * 100_000, "config.job"),
  _set("half a character", "job", "a\udcff", "config.job"),
  _set("a method of a long name", "objective.name", "x" * 5000, "config.objective"),
  _set("line breaks in a method's name", "objective.name", "x\n" * 9, r"x\nx\n"),
  Row("a file's name that is not UTF-8", ("config.data.source=", r"\udce9", "not UTF-8"), {"caf\udce9.txt": "a red circle\na blue square\n"}, "sample_scenes.py", {"data.source": "{here}/caf\udce9.txt"}),
  Row("no jobs in a pipeline", ("config.jobs is empty",), {}, "quickstart.py:smoke", {"jobs": "()"}),
  _sweep("nothing", "return []", "s.py:", "nothing to run"),
  Row("a URL for prompts", ("data.source=", "fetched from https://"), {}, "sample_scenes.py", {"data.source": "https://example.com/p.txt"}),
  Row("a URL for weights", ("config.init.checkpoint=", "fetched from HTTP://"), {}, "sample_scenes.py", {"init.checkpoint": "HTTP://example.com/w.safetensors"}),
  Row("a place of no kind for a run", ("--workdir=", "fetched from abc://"), workdir="abc://x/y"),
  _set("a section of strange keys", "rewards.x", "{1: 2}", "config.rewards.x"),
  _set("a set", "rewards.x.fn", "{1, 2}", "config.rewards.x"),
  _set("a tracker nobody knows", "trackers.wandb.fn", "wanbd", "trackers.wandb.fn",
       "wanbd", "wandb"),
  _set("an option of no tracker", "trackers.tensorboard.project", "a",
       "trackers.tensorboard.project"),
  _sweep("no list", "return None", "s.py:"),
  _sweep("an error", "return [1 / 0]", "s.py:2: ZeroDivisionError"),
  _sweep("keys that are no names", "return [{1: 2}]", "entry 0", "has the key 1"),
  _sweep("entries that are no dicts", "return ['seed=1']", "entry 0"),
  _sweep("a field that is not there", "return [{'sed': 1}]", "entry 0", "no such field"),
  _sweep("a config that is not there", "return [{'config': 'no.py'}]", "entry 0", "no.py"),
  _sweep("a value without text", "return [{'seed': type('Odd', (), {'__str__': lambda self: 1 / 0})()}]", "entry 0: seed", "s.py:2: ZeroDivisionError"),
  _sweep("one that is cancelled", "raise __import__('asyncio').CancelledError", "s.py:2: CancelledError"),
  Row("sweep: a home of nobody", ("home folder",), options=("--sweep=~nobody-at-all/s.py",)),
  _recorded("nothing", b"", "is not JSON"),
  _recorded("cut short", b'{"job": "al', "is not JSON"),
  _recorded("UTF-16", "{}".encode("utf-16"), "is UTF-16"),
  _recorded("Latin-1", b'{"job": "\xe9"}', "byte 10 is not UTF-8"),
  _recorded("NUL", b"\0" * 64, "is NUL"),
  _recorded("a list", b"[1]", "expected an object"),
  _recorded("depth", b'{"a":' * 100_000, "nested too deeply"),
  _recorded("5000 digits", b'{"seed": ' + b"9" * 5000 + b"}", "too large"),
  _recorded("NaN", b'{"seed": NaN}', "NaN"),
  _recorded("a key twice", b'{"seed": 0, "seed": 1}', "twice"),
  _recorded("no number", b'{"seed": {"$float": [1]}}'),
  _recorded("a word for a number", b'{"seed": {"$float": "x"}}'),
  _recorded("half a character", b'{"job": "\\ud800"}', "half a character"),
  _recorded("a key with a dot", b'{"a.b": 1}'),
  _recorded("gzip", b"\x1f\x8b\x08\0", "gzip"),
  _recorded("a folder", _folder, "it is a folder"),
  _record("a number for a section", json.dumps({"data": 3}), "data is 3"),
  _record("a job that is a section", '{"job": {"a": 1}}', "job is", "not text"),
  _record("a model that is a number", '{"job": "align", "model": 3}', "model is 3, not a section"),
  _record("a number for a list", '{"job": "align", "jobs": 3}', "jobs is 3, not a list"),
  _record("text for a number", '{"rollout": {"num_steps": "x"}}', "rollout.num_steps is 'x', not a number"),
  _record("a value out of range", '{"rollout": {"num_steps": 0}}', "config.rollout.num_steps=0"),
  _record("cut short", b"{", "is not JSON"),
  _record(
    "an option of version 0.1", _with_a_kl, "another version",
    "config.objective.kl has moved", "with the version that wrote it",
  ),
  Row("recorded: a damaged list of results", ("evaluation.json is damaged", "nested too deeply"), {"run/evaluation.json": '{"a":' * 9999}, QUICK, prepare=lambda here, patch: _write_config(here)),
]  # fmt: skip


def _write_config(here):
  """The config that the command itself would record."""
  config = tiny.load(QUICK)
  (here / "run" / "config.json").write_text(config_lib.to_json(config))
