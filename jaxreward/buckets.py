"""Working directories in a bucket of Google Cloud Storage.

An object is written whole or not at all, so records and checkpoints of a run
are as safe there as in a folder. Whether the process that holds a bucket is
still alive cannot be known, so the newest process takes it over: the last one
to write the lock continues, the others end before they publish.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator

from absl import logging
from etils import epath

from jaxreward.errors import Lost, UserError, one_line, shown

_PLACE = re.compile(r"gs://([a-z0-9][a-z0-9._-]+[a-z0-9])/[^/].*")
_LOCK_FILE = ".lock"
_PATIENCE = 20.0  # seconds to wait for the first response
# The names that gcsfs and Google's client, both of the extra, are found by.
_NEEDED = ("gcsfs", "google.cloud.storage")
_held: dict[str, str] = {}  # lock of this process -> what it has written there


def is_bucket(path: os.PathLike[str] | str) -> bool:
  """Whether the path is remote."""
  return "://" in os.fspath(path)


def reach(path: str) -> None:
  """Checks that a bucket exists and can be read, before any computation.

  Raises:
    UserError: the name is no gs://BUCKET/FOLDER, the extra `gcs` is missing,
      or the bucket cannot be reached, does not exist or is not open to us.
  """
  match = _PLACE.fullmatch(path)
  if not match:
    raise UserError(
      f"--workdir={path}: a folder in a bucket looks like gs://my-bucket/my-run"
    )
  if not all(_is_installed(name) for name in _NEEDED):
    raise UserError(
      f"--workdir={path} needs the extra gcs: pip install 'jaxreward[gcs]'"
    )
  # Its other file system class asks by gRPC what kind of bucket it is.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  import fsspec

  # Writes of other processes must be visible at once.
  fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
  _require_bucket(path, match[1])


def _is_installed(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:  # a package above it
    return False


def _require_bucket(path: str, name: str) -> None:
  from google.api_core import exceptions, retry
  from google.cloud.storage import Client

  policy = retry.Retry(
    predicate=retry.if_transient_error, initial=0.5, timeout=_PATIENCE
  )
  try:
    Client().get_bucket(name, timeout=_PATIENCE, retry=policy)
  except exceptions.NotFound:
    raise UserError(
      f"--workdir={path}: there is no bucket {name}; make it, as in"
      f" gcloud storage buckets create gs://{name}"
    ) from None
  except (exceptions.Forbidden, exceptions.Unauthorized) as error:
    raise UserError(
      f"--workdir={path}: this account may not use bucket {name}; give it the"
      " roles storage.objectUser and storage.legacyBucketReader"
      f" ({one_line(error)})"
    ) from error
  except Exception as error:  # no credentials, no network, no such host
    raise UserError(
      f"--workdir={path}: bucket {name} cannot be reached ({one_line(error)})"
    ) from error


@contextlib.contextmanager
def writing(path: os.PathLike[str] | str) -> Iterator[None]:
  """Reports why a write failed, after the six attempts of gcsfs.

  Raises:
    UserError: permission is denied.
    Lost: the bucket is out of reach; the same command resumes later.
  """
  try:
    yield
  except Exception as error:
    if isinstance(error, OSError) and "Forbidden" in str(error):
      raise UserError(f"cannot write {path}: {one_line(error)}") from error
    raise Lost(
      f"cannot write {path}: {one_line(error)}; the same command goes on from"
      " the last checkpoint"
    ) from error


def take(workdir: epath.Path) -> str:
  """Takes over a working directory from its holder; returns the lock."""
  lock = workdir / _LOCK_FILE
  if lock.exists():
    logging.warning(
      "%s was in use by %s; if that still runs, it ends before its next"
      " checkpoint", workdir, shown(_owner(lock), 100),
    )  # fmt: skip
  me = {"host": socket.gethostname(), "process": os.getpid()}
  text = json.dumps(me | {"id": uuid.uuid4().hex})
  with writing(lock):
    lock.write_text(text)
  _held[os.fspath(lock)] = text
  return os.fspath(lock)


def _owner(lock: epath.Path) -> str:
  try:
    record = json.loads(lock.read_text())
    return f"process {record['process']} on {record['host']}"
  except (ValueError, KeyError, TypeError, OSError, RecursionError):
    return "another process"


def require_held() -> None:
  """Checks that the lock is still ours; call before publishing anything.

  Raises:
    UserError: another process has taken the working directory over.
  """
  for place, text in _held.items():
    lock = epath.Path(place)
    if not lock.exists() or lock.read_text() != text:
      raise UserError(
        f"--workdir={lock.parent} was taken over by {shown(_owner(lock), 100)}; this"
        " process ends"
      )


def release(lock: str) -> None:
  """Removes the lock, unless another process has taken it."""
  text = _held.pop(lock)
  with contextlib.suppress(Exception):  # errors were reported by earlier writes
    if epath.Path(lock).read_text() == text:
      epath.Path(lock).unlink()
