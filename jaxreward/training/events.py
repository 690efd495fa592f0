"""TensorBoard event files, scalars only, without importing a framework.

An event file is a sequence of records: length, its checksum, a protobuf
`Event`, its checksum. Scalars need five fields of it, so they are encoded here.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping

from jaxreward import files

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types


def _crc32c_table() -> list[int]:
  """Castagnoli polynomial, reflected."""
  table = []
  for byte in range(256):
    for _ in range(8):
      byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    table.append(byte)
  return table


_TABLE = _crc32c_table()


def masked_crc32c(data: bytes) -> int:
  """CRC-32C, masked as the record format requires."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
  crc ^= 0xFFFFFFFF
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)


def _key(field: int, wire: int) -> bytes:
  return _varint(field << 3 | wire)


def _message(field: int, data: bytes) -> bytes:
  return _key(field, _BYTES) + _varint(len(data)) + data


def _event(step: int, body: bytes) -> bytes:
  """Event: wall_time = 1, step = 2, then its content."""
  wall_time = _key(1, _FIXED64) + struct.pack("<d", time.time())
  return wall_time + _key(2, _VARINT) + _varint(step) + body


def _scalar(name: str, value: float) -> bytes:
  """Summary.Value: tag = 1, simple_value = 2."""
  number = _key(2, _FIXED32) + struct.pack("<f", value)
  return _message(1, _message(1, name.encode()) + number)


def _record(data: bytes) -> bytes:
  length = struct.pack("<Q", len(data))
  return b"".join(
    [
      length,
      struct.pack("<I", masked_crc32c(length)),
      data,
      struct.pack("<I", masked_crc32c(data)),
    ]
  )


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
    self._file.write(_record(_event(0, _message(3, b"brain.Event:2"))))
    if purge_step is not None:
      start = _message(7, _key(1, _VARINT) + _varint(1))  # SessionLog.START
      self._file.write(_record(_event(purge_step, start)))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds named values of a step; values beyond float32 become infinite."""
    values = [_scalar(name, _float32(v)) for name, v in scalars.items()]
    summary = _message(5, b"".join(values))
    self._file.write(_record(_event(step, summary)))

  def publish(self) -> None:
    files.publish(self._file)

  def close(self) -> None:
    self._file.close()


def _float32(value: float) -> float:
  largest = 3.4028234663852886e38
  value = float(value)
  return (
    value if abs(value) <= largest else float("inf") * (1 if value > 0 else -1)
  )
