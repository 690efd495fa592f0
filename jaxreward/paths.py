"""Resolution of paths in configs and flags, by one rule.

Relative paths start from the working directory of the process. Names within a
file, such as those of images, start from that file's folder; configs and reward
files are also looked up beside the package. `~`
and `~name` are home folders. Environment variables are not expanded; the
shell does that.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat

from etils import epath

from jaxreward.errors import UserError, shown

# The checkpointer finds folders by glob patterns and cannot find these again;
# `*` and `?` match themselves, but also other folders.
_PATTERNS = "[*?\\"
_ABSENT = "there is no such file or folder"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PLACES = ("gs", "s3", "az", "hf")  # that files are read from
_LONGEST = 3500  # bytes of a path, below the 4096 that a system takes


def expand(path: object, field: str = "") -> str:
  """A path with its home folder in place of `~`; places such as gs:// stay.

  Args:
    path: as given.
    field: that gives it, such as "config.data.source", for errors.

  Raises:
    UserError: not a valid path, or a URL.
  """
  text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
  start = _named(text, field)
  if not isinstance(text, str):
    raise UserError(f"{start}: expected a path")
  if "\0" in text:
    raise UserError(f"{start}: a path holds no NUL character")
  if text.lower().startswith("file:"):
    raise UserError(f"{start}: write the path alone, without file://")
  scheme = _SCHEME.match(text)
  if scheme and scheme[1] not in _PLACES:
    raise UserError(
      f"{start}: nothing is fetched from {shown(scheme[0], 20)}; download it and"
      " name the file"
    )
  if not text.startswith("~") or "://" in text:
    return text
  home = os.path.expanduser(text)
  if home.startswith("~") and not os.path.lexists(text):
    raise UserError(
      f"{start}: there is no home folder of that name; a file whose own name"
      f" begins with ~ is written ./{shown(text, 60)}"
    )
  return home


def _named(path: object, field: str) -> str:
  """How errors name a path: by its field, if it has one."""
  return f"{field}={shown(path, 100)}" if field else shown(path, 100)


def find(path: object, field: str = "") -> epath.Path:
  """The expanded path of an existing file or folder.

  Args:
    path: as given.
    field: that gives it.

  Raises:
    UserError: nothing is there, or it cannot be reached.
  """
  target = epath.Path(expand(path, field))
  reason = trouble(target)
  if reason:
    raise UserError(f"{_named(path, field)}: {reason}")
  return target


def trouble(path: epath.Path) -> str:
  """Why an expanded path does not exist; empty if it does."""
  try:
    if "://" in os.fspath(path):
      exists = path.exists()
    else:
      exists = bool(os.stat(path))
  except (FileNotFoundError, NotADirectoryError):
    exists = False
  except OSError as error:
    return error.strerror or "it cannot be reached"
  except ValueError:
    return "it is no path"
  if exists:
    return ""
  return f"{_ABSENT}{hint(os.fspath(path))}"


def is_there(path: os.PathLike[str] | str) -> bool:
  """Whether an expanded path exists.

  Raises:
    UserError: it cannot be determined, as below a folder without permission.
  """
  reason = trouble(epath.Path(path))
  if reason and not reason.startswith(_ABSENT):
    raise UserError(f"{shown(path, 100)}: {reason}")
  return not reason


def hint(path: str) -> str:
  """A hint for a path that does not exist, or an empty string."""
  if "\\" in path:
    return "; folders are separated by / here, not by a backslash"
  if "$" in path or (path.startswith("%") and path.count("%") > 1):
    return "; environment variables are not expanded"
  if path != path.strip():
    return "; its name begins or ends with white space"
  return ""


def require_plain(path: os.PathLike[str] | str, field: str) -> None:
  """Refuses a folder from which checkpoints could not be read back.

  Args:
    path: of the folder; its parents count too.
    field: that gives it, such as "--workdir".

  Raises:
    UserError: the character or the length, and what to do.
  """
  text = os.fspath(path)
  text = text if "://" in text else os.path.abspath(text)
  start = f"{field}={shown(os.fspath(path), 100)}"
  for character in text:
    is_whole = not 0xD800 <= ord(character) < 0xE000
    if character in _PATTERNS or not is_whole:
      problem = shown(character) if is_whole else "a byte that is not UTF-8"
      raise UserError(
        f"{start}: its whole path holds {problem}, and checkpoints below such a"
        " folder cannot be read back; give another folder"
      )
  size = len(os.fsencode(text))
  if size > _LONGEST:
    raise UserError(
      f"{start}: its whole path has {size} bytes; at most {_LONGEST} leave room"
      " for what is written there"
    )


def reason_of(error: OSError) -> str:
  """The system's reason for an error."""
  if error.errno == errno.EISDIR:
    return "it is a folder, not a file"
  return error.strerror or "it cannot be read"


def matches(text: str) -> list[epath.Path] | None:
  """The files that a pattern with `*` names, in order; None of other paths."""
  if "*" not in text or "://" in text:
    return None
  return [epath.Path(p) for p in sorted(glob.glob(text, recursive=True))]


def beside(path: epath.Path) -> list[str]:
  """Names in the folder of a path, if it can be listed."""
  try:
    parent = path.parent
    return [p.name for p in parent.iterdir()] if parent.is_dir() else []
  except (OSError, ValueError):
    return []


def within(folder: os.PathLike[str] | str, name: object, what: str) -> str:
  """The path of a file that a row names, relative to the row's folder.

  Args:
    folder: of the file that holds the row.
    name: as the row gives it.
    what: place and key of the row, for errors.

  Raises:
    UserError: not text, or not a path.
  """
  if not isinstance(name, str) or not name.strip():
    raise UserError(f"{what} is {shown(repr(name))}, not the name of a file")
  return os.fspath(epath.Path(folder) / expand(name, f"{what}"))


def is_file(path: os.PathLike[str] | str, field: str = "") -> bool:
  """Whether an expanded path is a file.

  Raises:
    UserError: it cannot be determined, as below a folder without permission.
  """
  try:
    return stat.S_ISREG(os.stat(path).st_mode)
  except (FileNotFoundError, NotADirectoryError, ValueError):
    return False
  except OSError as error:
    raise UserError(f"{_named(path, field)}: {reason_of(error)}") from error
