"""Files that a config names, as they were when its run began.

A run that goes on after a stop goes on with the same data: prompts, pictures'
lists, weights. Their sizes and digests are kept beside the config.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import reading
from jaxreward.errors import UserError, shown
from jaxreward.files import write_atomic

FILE = "inputs.json"
_WHOLE = 1 << 24  # bytes up to which all of a file is read
_ENDS = 1 << 20  # bytes of each end of a larger one
_MOST = 10_000  # files of a folder
_CODE = ".py"
# Sections, and fields, whose files may change: they are written, or no results.
_LEFT, _CACHE = ("workdir", "checkpoint", "export"), "cache"


def digest(path: pathlib.Path) -> str:
  """Size and content of a file; of a folder, names and sizes in it.

  Of a large file the two ends stand for the whole.
  """
  found = hashlib.sha256()
  if path.is_dir():
    files = sorted(p for p in path.rglob("*") if p.is_file())[:_MOST]
    for file in files:
      found.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
    return f"{len(files)} files:{found.hexdigest()[:16]}"
  size = path.stat().st_size
  with path.open("rb") as file:
    found.update(file.read(_WHOLE if size <= _WHOLE else _ENDS))
    if size > _WHOLE:
      file.seek(-_ENDS, os.SEEK_END)
      found.update(file.read())
  return f"{size} bytes:{found.hexdigest()[:16]}"


def _named(config: Any, prefix: str = "") -> Iterator[Any]:
  """(field, text) of every text in a config."""
  for name in config:
    value, field = config[name], f"{prefix}{name}"
    if name == _CACHE or (name in _LEFT and not prefix):
      continue
    if isinstance(value, ConfigDict | dict):
      yield from _named(value, f"{field}.")
    elif isinstance(value, str):
      yield field, value
    elif isinstance(value, list | tuple):
      yield from ((f"{field}.{i}", v) for i, v in enumerate(value))


def _path(text: Any) -> pathlib.Path | None:
  """What a text names, if it is a file, or a folder by a path, on this disk."""
  if not isinstance(text, str) or not text or "://" in text or "\0" in text:
    return None
  for name in (text, text.rpartition(":")[0]):
    try:
      path = pathlib.Path(name).expanduser()
      if name and (path.is_file() or ("/" in name and path.is_dir())):
        return path
    except (OSError, RuntimeError):
      continue
  return None


def digests(config: ConfigDict) -> dict[str, str]:
  """{field: digest} of the files and folders that a config names."""
  found = {}
  for field, text in _named(config):
    path = _path(text)
    if path is None:
      continue
    try:
      found[field] = digest(path)
    except OSError:  # who needs it says so
      continue
  return found


def check(workdir: epath.Path, config: ConfigDict) -> None:
  """Compares the files of a config with those that its run began with.

  The first time they are recorded. Code may be mended in between: that is
  said, and no more.

  Raises:
    UserError: one has changed.
  """
  path = workdir / FILE
  now = digests(config)
  before: Any = {}
  if path.exists():
    try:
      record = reading.record(path)
      before = {k: v for k, v in record.items() if isinstance(v, str)}
    except UserError:  # damaged: there is nothing to compare with
      before = {}
  texts = dict(_named(config))
  for field, old in before.items():
    new = now.get(field)
    if new is None or new == old:
      continue
    name = shown(texts.get(field, ""), 80)
    change = f"{old.partition(':')[0]} then, {new.partition(':')[0]} now"
    if _CODE in name:
      logging.warning(
        "config.%s=%s has changed since the run began (%s): its rows before and"
        " after are not of one kind", field, name, change,
      )  # fmt: skip
      continue
    raise UserError(
      f"config.{field}={name} has changed since the run began ({change}):"
      f" restore it, give another --workdir, or remove {path} to go on with it"
    )
  if before != now | before:
    write_atomic(path, json.dumps(now | before, indent=2) + "\n")
