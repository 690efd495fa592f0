"""Persistent state of judges: their answers and the budget used."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import threading
from typing import Any

from jaxreward import paths
from jaxreward.errors import UserError, one_line
from jaxreward.files import write_atomic


def digest(value: Any) -> str:
  """SHA-256, in hexadecimal, of bytes or of a JSON value, keys in order."""
  if not isinstance(value, bytes):
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    value = text.encode(errors="surrogatepass")  # halves that a judge wrote
  return hashlib.sha256(value).hexdigest()


class Cache:
  """Answers by the hash of the request, each in a file written atomically.

  Several processes may share a folder. An entry that does not match the hash of
  its content is removed.

  Args:
    folder: created with the first answer.
  """

  def __init__(self, folder: os.PathLike[str] | str):
    self._folder = pathlib.Path(paths.expand(folder, "cache"))

  def _path(self, key: str) -> pathlib.Path:
    return self._folder / key[:2] / f"{key}.json"

  def get(self, key: str) -> Any | None:
    """The stored value, or None."""
    path = self._path(key)
    try:
      entry = json.loads(path.read_bytes())
      if entry["key"] == key and entry["digest"] == digest(entry["value"]):
        return entry["value"]
    except FileNotFoundError:
      return None
    except (ValueError, KeyError, TypeError, RecursionError):
      pass
    except OSError as error:
      raise UserError(
        f"cannot read the cache of answers: {one_line(error)}"
      ) from error
    self.drop(key)
    return None

  def put(self, key: str, value: Any) -> None:
    """Stores a JSON value."""
    entry = {"key": key, "digest": digest(value), "value": value}
    write_atomic(self._path(key), json.dumps(entry), shared=True)

  def drop(self, key: str) -> None:
    """Removes an unusable entry."""
    self._path(key).unlink(missing_ok=True)


class Spent(Exception):
  """A budget is used up."""


class Budget:
  """Requests and tokens of a run, counted in a file that a resumed run reads.

  Args:
    path: a line of JSON per request, written before it is sent, and per
      answer.
    requests: limit of requests; none if 0.
    tokens: limit of tokens; none if 0.
  """

  def __init__(self, path: pathlib.Path, requests: int = 0, tokens: int = 0):
    self._path = path
    self._limits = {"requests": requests, "tokens": tokens}
    self._lock = threading.Lock()
    self._used, self._torn = {"requests": 0, "tokens": 0}, False
    text = path.read_bytes() if path.exists() else b""
    for line in text.splitlines():
      try:
        name, count = json.loads(line)
        self._used[name] += count
      except (ValueError, KeyError, TypeError, RecursionError):
        self._torn = True  # the last write of a process that was killed
    self._torn |= bool(text) and not text.endswith(b"\n")

  @property
  def used(self) -> dict[str, int]:
    """{"requests", "tokens"} so far, those of earlier processes included."""
    with self._lock:
      return dict(self._used)

  def take(self) -> None:
    """Counts a request that is about to be sent.

    Raises:
      Spent: none is left.
    """
    with self._lock:
      for name, limit in self._limits.items():
        if limit and self._used[name] >= limit:
          raise Spent(f"{name[:-1]}_budget={limit} is used up")
      self._add("requests", 1)

  def count_tokens(self, tokens: int) -> None:
    """Counts the tokens of an answer."""
    with self._lock:
      self._add("tokens", tokens)

  def _add(self, name: str, count: int) -> None:
    self._used[name] += count
    line = json.dumps([name, count]) + "\n"
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with open(self._path, "a") as file:
        file.write("\n" + line if self._torn else line)
    except OSError as error:
      raise UserError(
        f"cannot write {self._path}: {error.strerror or one_line(error)}"
      ) from error
    self._torn = False
