"""Folders of runs and files whose names no library reads back."""

import os

from jaxreward.models import hub
from jaxreward.rewards.remote.store import Cache
from jaxreward.tasks.scenes import tfds_builder
from jaxreward.training.checkpoint import Checkpoints
from tests.bad_inputs.table import Row

MODEL = "sample_scenes.py"


def _workdir(name: str, workdir: str, *says: str, **more) -> Row:
  return Row(f"workdir: {name}", says, workdir=workdir, **more)


def _weights(name: str, path: str, *says: str, files=None) -> Row:
  return Row(
    f"checkpoint: {name}", says, files or {}, MODEL, {"init.checkpoint": path}
  )


def _from(folder: str):
  """Starts the command below a folder of that name."""

  def prepare(here, monkeypatch):
    (here / folder).mkdir()
    monkeypatch.chdir(here / folder)

  return prepare


ROWS = [
  *(
    _workdir(f"{word} in its name", f"{{here}}/{folder}/run", "--workdir", sign)
    for word, folder, sign in (
      ("[ and ]", "lr[1e-4]", "holds [,"),
      ("*", "a*b", "holds *,"),
      ("?", "why?", "holds ?,"),
      ("a backslash", "a\\b", "holds \\,"),
      ("bytes that are not UTF-8", "a\udce9", "a byte that is not UTF-8"),
    )
  ),
  _workdir("[ above it", "run", "holds [,", prepare=_from("x[1]")),
  _workdir("too long a name", "{here}/" + "x" * 300, "too long"),
  _workdir("too long a path", "{here}" + "/abcdefghi" * 380, "at most 3500"),
  _workdir("NUL", "{here}/a\0b", "no NUL"),
  _workdir("file://", "file:///tmp/run", "without file://"),
  _workdir("a home of nobody", "~nobody-at-all/run", "home folder"),
  _workdir("below a file", "{here}/f/run", "Not a directory", files={"f": ""}),
  _workdir("a file", "{here}/f", "File exists", files={"f": ""}),
  _weights("no file", "{here}/no.safetensors", "no such file or folder"),
  _weights("a variable", "$HOME/x.safetensors", "variables are not expanded"),
  _weights("a path of Windows", "C:\\x.safetensors", "backslash"),
  _weights("file://", "file:///x.safetensors", "without file://"),
  _weights("NUL", "a\0.safetensors", "no NUL"),
  _weights("too long a name", "x" * 300, "too long"),
  _weights("a home of nobody", "~nobody-at-all/x", "home folder"),
  _weights("a folder", "{here}/d", "here/d", files={"d": os.mkdir}),
  Row("checkpoints: brackets", ("holds [,",), call=lambda here: Checkpoints(here / "[a]")),
  Row("hub: a long name", ("too long",), call=lambda here: hub.resolve("x" * 300)),
  Row("hub: NUL", ("no NUL",), call=lambda here: hub.resolve("a\0b")),
  Row("hub: file://", ("without file://",), call=lambda here: hub.resolve(f"file://{here}")),
  Row("hub: a home of nobody", ("home folder",), call=lambda here: hub.resolve("~nobody-at-all/a")),
  Row("hub: a path of Windows", ("backslash",), call=lambda here: hub.resolve("C:\\models\\a")),
  Row("hub: a damaged record", ("nested too deeply",), {"config.json": '{"a":' * 9999}, call=hub.read_config),
  Row("hub: a record in UTF-16", ("is UTF-16",), {"config.json": "{}".encode("utf-16")}, call=hub.read_config),
  Row("hub: a folder for a record", ("it is a folder",), {"config.json": os.mkdir}, call=hub.read_config),
  Row("cache: file://", ("without file://",), call=lambda here: Cache(f"file://{here}")),
  Row("data set: file://", ("without file://",), call=lambda here: tfds_builder.make_builder(f"file://{here}")),
]  # fmt: skip
