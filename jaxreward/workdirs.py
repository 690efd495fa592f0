"""The working directory of a run: one config, one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import buckets, inputs, paths, processes, reading
from jaxreward import config as config_lib
from jaxreward.errors import UserError, shown
from jaxreward.files import write_atomic

CONFIG_FILE = "config.json"
RECORDS = ("evaluation.json", "finished.json")  # jobs add entries to them
COMMAND_FILE = "command.txt"
LOCK_FILE = ".lock"
_SHOWN = 3
_HELD: set[int] = set()


@contextlib.contextmanager
def take(
  workdir: epath.Path, config: ConfigDict, *, with_data: bool = True
) -> Iterator[None]:
  """Creates or reopens a working directory and holds it for this run.

  Of several processes, process 0 does so for all.

  Args:
    workdir: made if absent; a run of the same config is resumed. One in a
      bucket is taken over from a process that has it (see `buckets`).
    config: resolved config, written to `config.json`.
    with_data: the job reads data files, which must not have changed.

  Raises:
    UserError: it cannot be written, another process uses it, or it holds
      another config, other files, or a damaged record.
  """
  lock = processes.on_first(lambda: _open(workdir, config, with_data))
  if not (workdir / CONFIG_FILE).exists():
    raise UserError(
      f"--workdir={workdir}: process {processes.index()} does not see what"
      " process 0 has written; give a folder that all processes share"
    )
  try:
    yield
  finally:
    if processes.is_first():
      _release(lock)


def find(workdir: str) -> epath.Path:
  """The path of a working directory, which may be in a bucket, gs://....

  Raises:
    UserError: it is in a bucket that cannot be used.
  """
  workdir = paths.expand(workdir, "--workdir")
  if workdir.startswith("gs:") or buckets.is_bucket(workdir):
    buckets.reach(workdir)
  return epath.Path(workdir)


def _open(
  workdir: epath.Path, config: ConfigDict, with_data: bool
) -> int | str:
  """The lock, after checking the contents of the folder."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = _lock(workdir)
  except OSError as error:
    raise UserError(
      f"cannot write to --workdir={workdir}: {error.strerror or error}"
    ) from error
  try:
    _claim(workdir, config)
    before = read_record(workdir / inputs.FILE)
    inputs.check(workdir, config, before, with_data=with_data)
    for name in RECORDS:
      read_record(workdir / name)
  except BaseException:
    _release(lock)
    raise
  return lock


def _lock(workdir: epath.Path) -> int | str:
  """An exclusive flock, which the kernel releases when the process ends."""
  if buckets.is_bucket(workdir):
    return buckets.take(workdir)
  flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
  lock = os.open(os.path.join(workdir, LOCK_FILE), flags, 0o644)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    pid = os.read(lock, 32).decode(errors="replace").strip()
    os.close(lock)
    owner = f"process {pid}" if pid else "another process"
    raise UserError(f"--workdir={workdir} is in use by {owner}") from None
  except OSError as error:
    logging.warning("%s cannot be locked: %s", workdir, error.strerror)
  os.ftruncate(lock, 0)
  os.write(lock, f"{os.getpid()}\n".encode())
  _HELD.add(lock)
  return lock


def _release(lock: int | str) -> None:
  if isinstance(lock, str):
    buckets.release(lock)
    return
  _HELD.discard(lock)
  os.close(lock)


def _release_in_child() -> None:
  """A forked worker that outlives this process must not keep its lock."""
  while _HELD:
    os.close(_HELD.pop())


os.register_at_fork(after_in_child=_release_in_child)


def _lacks_fields(recorded: ConfigDict, new: ConfigDict) -> bool:
  """Whether a recorded config lacks fields that every config has by now."""
  method_sections = (
    "model",
    "reward_model",
    "train_reward",
  )  # their fields differ
  optional = (
    *config_lib.OPEN_SECTIONS, *config_lib.METHOD_SECTIONS, *method_sections
  )  # fmt: skip
  plain = lambda name: (
    not any(
      name == section or name.startswith(f"{section}.") for section in optional
    )
  )
  before, after = (
    {name for name in config_lib.flatten(config) if plain(name)}
    for config in (recorded, new)
  )
  return bool(after - before)


def require_same(workdir: epath.Path, config: ConfigDict) -> str | None:
  """Refuses a folder of another run, or of other files; writes nothing.

  Returns:
    The recorded config as text, or None where there is none yet.

  Raises:
    UserError: what the folder holds.
  """
  path = workdir / CONFIG_FILE
  if not path.exists():
    try:
      names = sorted(
        p.name for p in workdir.iterdir() if not p.name.startswith(".")
      )
    except FileNotFoundError:
      return None
    except OSError as error:
      raise UserError(
        f"cannot read --workdir={workdir}: {error.strerror or error}"
      ) from error
    if names:
      raise UserError(
        f"--workdir={workdir} holds no run but other files "
        f"({', '.join(names[:_SHOWN])}); give a new or empty folder"
      )
    return None
  recorded = _read(path)
  changed = config_lib.differences(recorded, config)
  if changed and _lacks_fields(recorded, config):
    raise UserError(
      f"--workdir={workdir} holds a run of another version, whose config has"
      f" other fields ({'; '.join(changed[:_SHOWN])}); finish it with the"
      " version that began it, or start again in another --workdir"
    )
  if changed:
    excess = len(changed) - _SHOWN
    raise UserError(
      f"--workdir={workdir} holds a run with another config "
      f"({'; '.join(changed[:_SHOWN])}{f'; {excess} more' if excess > 0 else ''})"
      "; give another --workdir, or the config it was started with"
    )
  return config_lib.to_json(recorded)


def _claim(workdir: epath.Path, config: ConfigDict) -> None:
  """Checks that the folder holds this run, and records the config."""
  text = config_lib.to_json(config)
  before = require_same(workdir, config)
  if before is not None:
    logging.info("resuming %s", workdir)
  if before != text:
    write_atomic(workdir / CONFIG_FILE, text + "\n")


def read_record(path: epath.Path) -> dict[str, Any]:
  """The object in a JSON file of the working directory; {} if it is absent.

  Raises:
    UserError: it is damaged; new entries would be lost.
  """
  if not path.exists():
    return {}
  try:
    return reading.record(path)
  except UserError as error:
    raise UserError(
      f"{reading.name(path)} is damaged: {_without(path, error)}; repair it, or"
      " remove it to do without what it holds"
    ) from error


def _without(path: epath.Path, error: Exception) -> str:
  """What an error says of a file, without the file's name once more."""
  return shown(str(error).removeprefix(reading.name(path)).lstrip(",: "), 120)


def record_command(workdir: epath.Path, arguments: Sequence[str]) -> None:
  """Keeps the command that a run was last started with, for a person to read.

  It is no part of the config, so the run stays the same run.
  """
  text = shlex.join(["python", "-m", "jaxreward.main", *arguments])
  data = (text + "\n").encode(errors="surrogateescape")
  write_atomic(workdir / COMMAND_FILE, data)


def read_command(workdir: epath.Path) -> str:
  """What `record_command` has kept; empty if nothing was."""
  path = workdir / COMMAND_FILE
  if not path.exists():
    return ""
  return path.read_bytes().decode(errors="replace").strip()


def read_config(workdir: epath.Path) -> ConfigDict:
  """The config of the run that a working directory holds.

  Raises:
    UserError: it holds none, or a damaged one.
  """
  path = workdir / CONFIG_FILE
  if not path.exists():
    raise UserError(f"--workdir={workdir} holds no run: there is no {path}")
  return _read(path)


def _read(path: epath.Path) -> ConfigDict:
  try:
    return config_lib.from_json(reading.text(path))
  except (UserError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise UserError(
      f"{reading.name(path)} is damaged: {_without(path, error)}"
    ) from error
