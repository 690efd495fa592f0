"""TensorBoard event files in a folder or a bucket, scalars only."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import IO

import numpy as np
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from jaxreward import files


class _Records(record_writer.RecordWriter):
  """Records with checksums, in a file that is open already."""

  def __init__(self, file: IO[bytes] | files.GrowingObject):
    self._writer = file


class EventFile:
  """One event file of this process.

  Args:
    folder: made if absent.
    purge_step: TensorBoard hides events of earlier files from this step on.
  """

  def __init__(
    self, folder: os.PathLike[str] | str, purge_step: int | None = None
  ):
    name = f"{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
    path = os.path.join(folder, f"events.out.tfevents.{name}")
    self._file = files.open_growing(path)
    self._records = _Records(self._file)
    self._add(0, file_version="brain.Event:2")
    if purge_step is not None:
      self._add(purge_step, session_log=SessionLog(status=SessionLog.START))

  def _add(self, step: int, **content) -> None:
    event = Event(wall_time=time.time(), step=step, **content)
    self._records.write(event.SerializeToString())

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds named values of a step; values beyond float32 become infinite."""
    with np.errstate(over="ignore"):
      values = [
        Summary.Value(tag=name, simple_value=np.float32(value).item())
        for name, value in scalars.items()
      ]
    self._add(step, summary=Summary(value=values))

  def publish(self) -> None:
    files.publish(self._file)

  def close(self) -> None:
    self._file.close()
