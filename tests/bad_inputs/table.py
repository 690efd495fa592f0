"""Rows of the table of bad inputs: a mistake, and what a person sees of it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

# A file's content: text is written as UTF-8; a function writes the path itself.
Content = str | bytes | Callable[[pathlib.Path], Any]
QUICK = "align_scenes.py:smoke"


@dataclasses.dataclass(frozen=True)
class Row:
  """One mistake. "{here}" in values stands for a folder of the row's own.

  Attributes:
    name: of the row, unique in its file.
    says: words of the one line that a person sees.
    files: what the folder holds, by path in it.
    config: file in configs/ with its argument, or a path from "{here}" on.
    overrides: fields set on the command line.
    env: environment variables that are set for it.
    workdir: of the run.
    call: in place of a command: a function of the folder that raises a
      `UserError`, for readers that no job reaches without long work.
    options: further words of the command line.
    prepare: called with (folder, monkeypatch) first, where the row needs more
      than files and variables.
    needs: a package of an extra without which another line is shown: such
      rows run where the extras do.
  """

  name: str
  says: tuple[str, ...]
  files: Mapping[str, Content] = dataclasses.field(default_factory=dict)
  config: str = QUICK
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  workdir: str = "{here}/run"
  call: Callable[[pathlib.Path], Any] | None = None
  options: tuple[str, ...] = ()
  prepare: Callable[..., Any] | None = None
  needs: str | None = None


def write(here: pathlib.Path, files: Mapping[str, Content]) -> None:
  """Writes a row's files below its folder."""
  for name, content in files.items():
    path = here / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
      content(path)
    else:
      data = content.encode() if isinstance(content, str) else content
      path.write_bytes(data)
