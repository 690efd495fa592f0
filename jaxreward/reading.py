"""Reading text files of users and of runs, by one rule.

Files are UTF-8, with or without a byte-order mark. Lines end only with a line feed,
a carriage return or both: other characters that Python treats as line ends may
occur within a prompt. Every failure names the file and the line.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxreward import paths
from jaxreward.errors import UserError, shown

LARGEST = 2**30  # bytes of a text file
LONGEST = 2**22  # characters of a line
_END = re.compile(r"\r\n|\n|\r")
_MARK = "\ufeff"
# First bytes of files that are not text, and what to do about them.
_KINDS = (
  (b"\xff\xfe\0\0", "is UTF-32; save it as UTF-8"),
  (b"\0\0\xfe\xff", "is UTF-32; save it as UTF-8"),
  (b"\xff\xfe", "is UTF-16; save it as UTF-8"),
  (b"\xfe\xff", "is UTF-16; save it as UTF-8"),
  (b"\x1f\x8b", "is compressed by gzip; unpack it first"),
  (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first"),
  (b"\xfd7zXZ\0", "is compressed by xz; unpack it first"),
  (b"BZh", "is compressed by bzip2; unpack it first"),
  (b"PK\x03\x04", "is a zip archive; unpack it first"),
  (b"PAR1", "is a parquet table; write its rows as JSON lines"),
  (b"ARROW1", "is an Arrow table; write its rows as JSON lines"),
  (b"SQLite format 3\0", "is a database; write its rows as JSON lines"),
  (b"%PDF-", "is a PDF; save its text"),
  (b"\x89PNG", "is a picture, not text"),
  (b"\xff\xd8\xff", "is a picture, not text"),
)
# Characters of a line shown in errors.
_SHOWN = 40


def read_bytes(path: os.PathLike[str] | str) -> bytes:
  """The content of a file.

  Raises:
    UserError: no such file, a folder or a device, no permission, or a file too
      large for text.
  """
  path = epath.Path(path)
  try:
    if "://" not in os.fspath(path):
      _require_file(path)
    return path.read_bytes()
  except OSError as error:
    reason = paths.reason_of(error)
    if isinstance(error, FileNotFoundError):
      reason = f"there is no such file{paths.hint(os.fspath(path))}"
    raise UserError(f"{name(path)}: {reason}") from error
  except ValueError as error:
    raise UserError(f"{name(path)}: it is no path") from error


def _require_file(path: epath.Path) -> None:
  """Refuses endless inputs, such as a device, and files that are too large."""
  about = os.stat(path)
  if stat.S_ISDIR(about.st_mode):
    raise UserError(f"{name(path)}: it is a folder, not a file")
  if not stat.S_ISREG(about.st_mode):
    raise UserError(f"{name(path)}: it is a device or a pipe, not a file")
  if about.st_size > LARGEST:
    raise UserError(
      f"{name(path)}: it has {about.st_size:,} bytes; text files of up to"
      f" {LARGEST:,} are read"
    )


def number(value: Any) -> float:
  """A number given as one or as text; NaN for anything else, such as a bool."""
  try:
    return math.nan if isinstance(value, bool) else float(value)
  except (TypeError, ValueError, OverflowError):
    return math.nan


def name(path: os.PathLike[str] | str) -> str:
  """A path for an error line; a long one keeps its end."""
  text = shown(os.fspath(path), 4096)
  return text if len(text) <= 120 else f"...{text[-117:]}"


def decode(data: bytes, path: os.PathLike[str] | str) -> str:
  """UTF-8 as text, without a byte-order mark.

  Raises:
    UserError: another encoding, by line and byte, or not text.
  """
  for start, reason in _KINDS:
    if data.startswith(start):
      raise UserError(f"{name(path)}: it {reason}")
  data = data.removeprefix(b"\xef\xbb\xbf")
  try:
    text = data.decode()
  except UnicodeDecodeError as error:
    where = _place(data[: error.start])
    raise UserError(
      f"{name(path)}, {where} is not UTF-8; save the file as UTF-8"
    ) from error
  if "\0" in text:
    where = _place(text[: text.index("\0")].encode())
    raise UserError(
      f"{name(path)}, {where} is NUL, which no text holds; save the file as"
      " UTF-8"
    )
  return text


def _place(before: bytes) -> str:
  """Line and byte, counted from 1, of what follows these bytes."""
  ends = re.split(rb"\r\n|\n|\r", before)
  return f"line {len(ends)}: byte {len(ends[-1]) + 1}"


def text(path: os.PathLike[str] | str) -> str:
  """The whole text of a file.

  Raises:
    UserError: see `read_bytes` and `decode`.
  """
  return decode(read_bytes(path), path)


def lines(path: os.PathLike[str] | str) -> Iterator[tuple[str, str]]:
  """(place, line) of every line that is not blank, without white space around.

  The place reads "FILE, line N"; numbers start at 1.

  Raises:
    UserError: see `text`; a line that is too long.
  """
  for number, line in enumerate(_END.split(text(path)), 1):
    where = f"{name(path)}, line {number}"
    if len(line) > LONGEST:
      raise UserError(
        f"{where} has {len(line):,} characters; at most {LONGEST:,} are read"
      )
    line = line.removeprefix(_MARK).strip()
    if line:
      yield where, line


def rows(
  path: os.PathLike[str] | str, example: str
) -> Iterator[tuple[str, dict[str, Any]]]:
  """(place, object) of every line of a file with one JSON object a line.

  Args:
    path: of the file.
    example: of a line, for errors.

  Raises:
    UserError: see `lines` and `parse`; a line that holds no object.
  """
  yield from _or_raise(_rows(path, example))


def _or_raise(
  rows: Iterator[tuple[str, dict[str, Any] | UserError]],
) -> Iterator[tuple[str, dict[str, Any]]]:
  for where, row in rows:
    if isinstance(row, UserError):
      raise row
    yield where, row


def _rows(
  path: os.PathLike[str] | str, example: str
) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
  """(place, object, or what is wrong with the line).

  Raises:
    UserError: the file is not a file of lines.
  """
  for number, (where, line) in enumerate(lines(path)):
    try:
      row = parse(line, where, f"; a line reads like {example}")
    except UserError as error:
      if not number and (whole := _of_whole(path, where, example)):
        raise UserError(whole) from error
      yield where, error
      continue
    if isinstance(row, dict):
      yield where, row
      continue
    is_whole = isinstance(row, list) and not number
    if is_whole and (whole := _of_whole(path, where, example)):
      raise UserError(whole)
    yield (
      where,
      UserError(
        f"{where}: `{shown(line, _SHOWN)}` is not an object; a line reads like"
        f" {example}"
      ),
    )


def table(
  path: os.PathLike[str] | str, example: str, *, errors: bool = False
) -> Iterator[tuple[str, Any]]:
  """(place, row) of a .csv file with names in its first line, or see `rows`.

  Args:
    path: of the file.
    example: of a line of JSON, for errors.
    errors: yields the `UserError` of a bad line in place of its row.

  Raises:
    UserError: see `rows`; a line of other columns.
  """
  is_csv = epath.Path(path).suffix == ".csv"
  rows_or_errors = _csv(path) if is_csv else _rows(path, example)
  yield from rows_or_errors if errors else _or_raise(rows_or_errors)


def _csv(
  path: os.PathLike[str] | str,
) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
  reader = csv.reader(io.StringIO(text(path), newline=""), strict=True)
  header: list[str] = []
  while True:
    try:
      cells = next(reader, None)
    except csv.Error as error:
      where = f"{name(path)}, line {reader.line_num}"
      raise UserError(f"{where}: it is no line of CSV ({error})") from error
    if cells is None:
      return
    where = f"{name(path)}, line {reader.line_num}"
    if not any(cell.strip() for cell in cells):
      continue
    if not header:
      header = [cell.removeprefix(_MARK).strip() for cell in cells]
      twice = [n for n in header if header.count(n) > 1]
      if twice:
        raise UserError(f'{where}: two columns are called "{shown(twice[0])}"')
      continue
    if len(cells) == len(header):
      yield where, dict(zip(header, cells, strict=True))
      continue
    yield (
      where,
      UserError(
        f"{where}: {len(cells)} columns, and {len(header)} names in the first"
        " line; quote what holds a comma"
      ),
    )


def _of_whole(path: os.PathLike[str] | str, where: str, example: str) -> str:
  """The error for a file that is one JSON value as a whole, or empty."""
  try:
    value = json.loads(text(path).lstrip(_MARK))
  except (ValueError, RecursionError):
    return ""
  items = value if isinstance(value, list) else [value]
  if not all(isinstance(item, dict) for item in items) or not items:
    return ""
  kind = "one JSON array, which is not an object"
  if isinstance(value, dict):
    kind = "one JSON object over several lines"
  return (
    f"{where}: the file is {kind}; write one object per line, such as by"
    f" jq -c '{'.[]' if isinstance(value, list) else '.'}'; a line reads like"
    f" {example}"
  )


class _Refused(ValueError):
  """Why a value is refused."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  row = dict(pairs)
  if len(row) < len(pairs):
    names = [key for key, _ in pairs]
    twice = next(key for key in names if names.count(key) > 1)
    raise _Refused(f'"{shown(twice, 40)}" appears twice')
  return row


def _constant(word: str) -> None:
  raise _Refused(f"{word} is no number of JSON")


def _float(word: str) -> float:
  value = float(word)
  if not math.isfinite(value):
    raise _Refused(f"the number {shown(word, 20)} is too large")
  return value


def _int(word: str) -> int:
  if len(word) > 300:
    raise _Refused(f"the number {shown(word, 20)} is too large")
  return int(word)


def parse(line: str, where: str, after: str = "") -> Any:
  """The JSON value of a text.

  Args:
    line: the text.
    where: its place, for errors.
    after: end of the error line.

  Raises:
    UserError: not JSON, or accepted by some JSON readers only: a duplicate key,
      NaN or an infinity, half a surrogate pair.
  """
  start = f"{where}: `{shown(line, _SHOWN)}` is not JSON"
  try:
    value = json.loads(
      line, object_pairs_hook=_pairs, parse_constant=_constant,
      parse_float=_float, parse_int=_int,
    )  # fmt: skip
  except _Refused as error:
    raise UserError(f"{where}: {error}") from error
  except RecursionError as error:
    raise UserError(f"{start} (it is nested too deeply){after}") from error
  except json.JSONDecodeError as error:
    column = f"{error.msg}, character {error.pos + 1}"
    raise UserError(f"{start} ({column}){after}") from error
  if "\\u" in line:
    _require_whole(value, where)
  return value


def _require_whole(value: Any, where: str) -> None:
  """Refuses unpaired surrogates, which cannot be encoded."""
  if isinstance(value, dict):
    for key, item in value.items():
      _require_whole(key, where)
      _require_whole(item, where)
  elif isinstance(value, list):
    for item in value:
      _require_whole(item, where)
  elif isinstance(value, str):
    try:
      value.encode()
    except UnicodeEncodeError as error:
      half = shown(value[error.start], 10)
      raise UserError(
        f"{where}: {half} in `{shown(value, _SHOWN)}` is half a character;"
        " write both halves, or the character itself"
      ) from error


def record(
  path: os.PathLike[str] | str, *, foreign: bool = False
) -> dict[str, Any]:
  """The object that a JSON file holds.

  Args:
    path: of the file.
    foreign: written by other libraries, which may write NaN, infinities and
      keys twice.

  Raises:
    UserError: it cannot be read, is no JSON, or holds something else.
  """
  content = text(path)
  where = name(path)
  if not content.strip():
    raise UserError(f"{where}: it is empty")
  if foreign:
    value = foreign_value(content, where)
  else:
    value = parse(content, where)
  if not isinstance(value, dict):
    raise UserError(
      f"{where} holds {shown(json.dumps(value), _SHOWN)}; expected an object"
    )
  return value


def foreign_value(content: str, where: str) -> Any:
  """The JSON value of a text that other libraries wrote.

  Raises:
    UserError: it is no JSON.
  """
  try:
    return json.loads(content)
  except RecursionError as error:
    raise UserError(f"{where}: it is nested too deeply") from error
  except ValueError as error:
    raise UserError(f"{where} is not JSON: {shown(error, 80)}") from error
