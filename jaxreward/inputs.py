"""Detects changes to the files that a config names since its run began.

A resumed run must see the same data: prompts, entries by prompt, images,
weights. Sizes and digests are stored beside the config.

A field names a file by a path with "/", by a name with a suffix, or by being
one of `FIELDS`. What is compared:

- a file up to 16 MiB by its content, a larger one by its size and both ends;
- a folder by names, sizes and contents, text files first, until 64 MiB are
  read, then by both ends; only the first 10,000 files in order. Anything below
  the working directory, or that of another run, is skipped;
- images named by rows of a .jsonl file are compared the same way.

Changes in the middle of files read by their ends alone, files beyond the first
10,000, and the contents of a hub or a bucket go undetected.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward.errors import UserError, shown
from jaxreward.files import write_atomic

FILE = "inputs.json"
# Fields, by their last word, that name a file or a folder by any name.
FIELDS = (
  "source", "weights", "checkpoint", "adapter", "init", "references", "facts",
  "questions", "template", "templates", "questions_template",
  "principles",
)  # fmt: skip
# Fields of rows that name images.
_PICTURES = ("image", "target", "mask", "image_a", "image_b", "faces")
_WHOLE = 1 << 24  # bytes up to which all of a file is read
_IN_ALL = 1 << 26  # bytes of whole files of a folder
_ENDS = 1 << 14  # bytes of each end of others
_MOST = 10_000  # files
_RUN = {FILE, "command.txt", ".lock"}  # beside config.json
_TEXTS = (".txt", ".jsonl", ".json", ".csv")
_CODE = ".py"
# Sections and fields whose files may change: outputs, or not part of results.
_LEFT, _CACHE = ("workdir", "checkpoint", "export"), "cache"
# Sections whose files tell of data, which a job that exports weights leaves.
_DATA = (
  "data",
  "train_reward",
  "rewards",
  "heldout_rewards",
  "judged_rewards",
  "regularizers",
)


def digest(path: pathlib.Path, excluded: str = "") -> str:
  """Sizes and contents of a file or a folder; see the top of the module.

  Args:
    path: of it.
    excluded: a folder to skip.
  """
  is_folder = path.is_dir()
  files = list(_below(path, excluded)) if is_folder else [path]
  pictures = set(itertools.islice(_pictures(files), _MOST)) - {*files}
  hasher, budget = hashlib.sha256(), _IN_ALL
  ordered = sorted(files, key=lambda p: (p.suffix not in _TEXTS, p))
  for file in (*ordered, *sorted(pictures)):
    name = os.path.relpath(file, path if is_folder else path.parent)
    content = _content(file, budget)
    budget -= len(content)
    size = _size(file)
    hasher.update(os.fsencode(f"{name if file != path else ''} {size}\n"))
    hasher.update(content)
  size_text = f"{len(files)} files" if is_folder else f"{_size(path)} bytes"
  suffix = f" and {len(pictures)} pictures" if pictures else ""
  return f"{size_text}{suffix}:{hasher.hexdigest()[:16]}"


def _size(path: pathlib.Path) -> int:
  """Bytes of a file; -1 if it does not exist."""
  try:
    return path.stat().st_size
  except (OSError, ValueError):
    return -1


def _content(path: pathlib.Path, budget: int) -> bytes:
  """All of a file, or both its ends; empty if it cannot be read."""
  size = _size(path)
  try:
    with path.open("rb") as file:
      if size <= max(min(_WHOLE, budget), 2 * _ENDS):
        return file.read(_WHOLE)
      start = file.read(_ENDS)
      file.seek(-_ENDS, os.SEEK_END)
      return start + file.read(_ENDS)
  except (OSError, ValueError):
    return b""


def _below(folder: pathlib.Path, excluded: str) -> Iterator[pathlib.Path]:
  """The first files of a folder in order, without those of runs."""

  def walk() -> Iterator[pathlib.Path]:
    for place, folders, names in os.walk(folder):
      folders.sort()
      is_run = "config.json" in names and not _RUN.isdisjoint(names)
      if _is_below(place, excluded) or (is_run and place != os.fspath(folder)):
        folders.clear()
        continue
      yield from (pathlib.Path(place, name) for name in sorted(names))

  return itertools.islice(filter(os.path.isfile, walk()), _MOST)


def _is_below(path: os.PathLike[str] | str, folder: str) -> bool:
  real = os.path.realpath(path) + os.sep
  return bool(folder) and real.startswith(os.path.realpath(folder) + os.sep)


def _pictures(files: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
  """The images that rows name, from their file's folder on."""
  for file in files:
    if file.suffix == ".jsonl" and os.access(file, os.R_OK):
      with file.open("rb") as lines:
        names = (file.parent / name for line in lines for name in _names(line))
        paths = (pathlib.Path(os.path.normpath(name)) for name in names)
        yield from filter(os.path.isfile, paths)


def _names(line: bytes) -> list[str]:
  if not any(f'"{key}"'.encode() in line for key in _PICTURES):
    return []
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):  # the reader of the row reports it
    return []
  values = [row.get(key) for key in _PICTURES] if isinstance(row, dict) else []
  lists = [v if isinstance(v, list) else [v] for v in values]
  names = [v for some in lists for v in some if isinstance(v, str)]
  return [os.path.expanduser(v) for v in names if v.strip() and "\0" not in v]


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


def _path(field: str, text: Any) -> pathlib.Path | None:
  """The path a field names, if it is a file or a folder on this disk."""
  if not isinstance(text, str) or not text or "://" in text or "\0" in text:
    return None
  parts = [word for word in field.split(".") if not word.isdigit()]
  is_named = parts[-1] in FIELDS and text not in ("scenes", "edits")
  for name in (text, text.rpartition(":")[0]):
    try:
      path = pathlib.Path(name).expanduser()
      is_path = is_named or "/" in name
      if name and (
        ((is_path or path.suffix) and path.is_file())
        or (is_path and path.is_dir())
      ):
        return path
    except (OSError, RuntimeError):
      continue
  return None


def digests(config: ConfigDict, excluded: str = "") -> dict[str, str]:
  """{field: digest} of the files and folders that a config names.

  Args:
    config: of a run.
    excluded: its working directory, whose files are written by the run.
  """
  digest_of = {}
  for field, text in _named(config):
    path = _path(field, text)
    if path is None or _is_below(path, excluded):
      continue
    try:
      digest_of[field] = digest(path, excluded)
    except OSError:  # its reader reports it
      continue
  return digest_of


def check(
  workdir: epath.Path,
  config: ConfigDict,
  before: dict[str, Any],
  *,
  with_data: bool = True,
) -> None:
  """Compares the files of a config with those that its run began with.

  The first call records them. Changed code is allowed, with a warning.

  Args:
    workdir: of the run.
    config: of the run.
    before: digests recorded in the working directory; {} for none.
    with_data: False for a job that only reads weights.

  Raises:
    UserError: one has changed, or the record is damaged.
  """
  path = workdir / FILE
  for field, old in before.items():
    if not isinstance(old, str):
      raise UserError(
        f"{shown(path, 120)} is damaged: {shown(field)} is {shown(old)}, not"
        " text; repair it, or remove it to do without what it holds"
      )
  excluded = "" if "://" in os.fspath(workdir) else os.fspath(workdir)
  now, texts = digests(config, excluded), dict(_named(config))
  for field, old in before.items():
    new, is_data = now.get(field), field.partition(".")[0] in _DATA
    if new is None or new == old or (is_data and not with_data):
      continue
    _tell(field, texts.get(field, ""), old, new, path)
  if before != now | before:
    write_atomic(path, json.dumps(now | before, indent=2) + "\n")


def _tell(field: str, text: str, old: str, new: str, path: epath.Path) -> None:
  """Refuses a changed file; changed code is only logged."""
  change = " then, ".join(shown(d.partition(":")[0], 40) for d in (old, new))
  at = _path(field, text)
  if at is not None and at.suffix == _CODE:
    logging.warning(
      "config.%s=%s has changed since the run began (%s now): its rows before"
      " and after are not of one kind", shown(field), shown(text, 80), change,
    )  # fmt: skip
    return
  raise UserError(
    f"config.{shown(field)}={shown(text, 80)} has changed since the run began"
    f" ({change} now): restore it, give another --workdir, or remove {path} to"
    " go on with it"
  )
