"""Writing files so that a killed process leaves the old one or the new."""

from __future__ import annotations

import contextlib
import os
import uuid

from etils import epath

from jaxreward import processes
from jaxreward.errors import UserError, one_line


def write_atomic(
  path: os.PathLike[str] | str, data: bytes | str, *, shared: bool = False
) -> None:
  """Writes beside, syncs and renames: readers see the old file or the new.

  Of several processes, process 0 alone writes.

  Args:
    path: the file; its folder is made if absent.
    data: text is written as UTF-8.
    shared: other runs may be writing the same file.

  Raises:
    UserError: no room or no permission; an older file stays as it was.
  """
  if not processes.is_first():
    return
  path = epath.Path(path)
  data = data.encode() if isinstance(data, str) else data
  own = f".{uuid.uuid4().hex}" if shared else ""
  temporary = path.parent / f".{path.name}{own}.tmp"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(path):
      path.write_bytes(data)  # object stores show whole files only
      return
    with open(temporary, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    reason = error.strerror or one_line(error)
    raise UserError(f"cannot write {path}: {reason}") from error
