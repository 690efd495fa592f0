"""What stands in an image file beside its first picture, and how to leave it out.

A JPEG is segments (marker, length, content) and then scans, a PNG chunks
(length, kind, content, checksum), a WebP chunks (kind, length, content).
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator

_ORIENTATION = 274  # the tag of EXIF
# APPn and comments; APP0 and APP14 say how colours are stored.
_JPEG_NOTES = (*range(0xE1, 0xEE), 0xEF, 0xFE)
_WEBP_NOTES = (b"ICCP", b"EXIF", b"XMP ")
_WEBP_FLAGS = 0x20 | 0x08 | 0x04  # that say of these three that they are there


def bare(name: str, data: bytes) -> bytes:
  """A file with what its pixels come from alone; others than these are whole.

  Args:
    name: Pillow's name of the format.
    data: the file. Of one that is cut, what there is of the pixels is kept, and
      a missing end is put there where the format needs none to be whole.
  """
  made = {"PNG": _bare_png, "JPEG": _bare_jpeg, "WEBP": _bare_webp}
  return made.get(name, bytes)(data)


def turn(name: str, data: bytes) -> int:
  """Which way up the camera was held, 1 to 8, by EXIF or else by XMP.

  1, upright, for other formats and where it cannot be read.
  """
  made = {"PNG": _png_notes, "JPEG": _jpeg_notes, "WEBP": _webp_notes}
  exif, xmp = made[name](data) if name in made else (b"", b"")
  return turn_of(exif, xmp)


def turn_of(exif: bytes, xmp: bytes) -> int:
  """The same from a block of EXIF and one of XMP; empty where there is none."""
  found = _orientation(exif)
  if found is None:
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    found = int(match[1]) if match else 1
  return found if 1 <= found <= 8 else 1


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
  """(kind, body, whole) of each chunk; of a cut one, what there is of it."""
  at = 8
  while at + 8 <= len(data):
    length, kind = struct.unpack_from(">I4s", data, at)
    end = at + 12 + length
    yield kind, data[at + 8 : end - 4], data[at:end]
    at = end


def _bare_png(data: bytes) -> bytes:
  """The chunks that hold the first picture, and an end."""
  kept = [data[:8]]
  for kind, body, whole in _png_chunks(data):
    if kind == b"IEND":
      break
    if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
      is_cut = len(whole) < 12 + struct.unpack_from(">I", whole)[0]
      kept.append(_png_chunk(kind, body) if is_cut else whole)
  return b"".join([*kept, _png_chunk(b"IEND", b"")])


def _png_chunk(kind: bytes, body: bytes) -> bytes:
  check = zlib.crc32(kind + body)
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
  """(marker, whole segment) up to the first scan, then (0, the rest).

  Raises:
    ValueError: there is no scan.
  """
  at = 2
  while at + 4 <= len(data) and data[at] == 0xFF:
    marker = data[at + 1]
    if marker == 0xFF:  # a fill byte
      at += 1
      continue
    if marker == 0xDA:
      yield 0, data[at:]
      return
    end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
    yield marker, data[at:end]
    at = end
  raise ValueError("there is no scan in this JPEG")


def _bare_jpeg(data: bytes) -> bytes:
  """The segments that hold the first picture; as it is if it has no scan."""
  kept = [data[:2]]
  try:
    for marker, segment in _jpeg_segments(data):
      if marker not in _JPEG_NOTES:
        kept.append(segment)
  except ValueError:
    return data
  return b"".join(kept)


def is_progressive(data: bytes) -> bool:
  """Whether scans of a JPEG refine each other; of one without a scan, true."""
  with contextlib.suppress(ValueError):
    return any(marker == 0xC2 for marker, _ in _jpeg_segments(data))
  return True


def _png_notes(data: bytes) -> tuple[bytes, bytes]:
  """(EXIF, XMP) of a PNG."""
  exif, xmp = b"", b""
  for kind, body, _ in _png_chunks(data):
    if kind == b"eXIf":
      exif = body
    elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
      xmp = body
  return exif, xmp


def _jpeg_notes(data: bytes) -> tuple[bytes, bytes]:
  """(EXIF, XMP) of a JPEG."""
  exif, xmp = b"", b""
  with contextlib.suppress(ValueError):
    for marker, segment in _jpeg_segments(data):
      if marker == 0xE1 and segment[4:].startswith(b"Exif\0"):
        exif = exif or segment[10:]
      elif marker == 0xE1 and segment[4:].startswith(
        b"http://ns.adobe.com/xap"
      ):
        xmp = xmp or segment
  return exif, xmp


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """(kind, content) of each chunk; of a cut one, what there is of it."""
  at = 12
  while at + 8 <= len(data):
    kind, length = struct.unpack_from("<4sI", data, at)
    yield kind, data[at + 8 : at + 8 + length]
    at += 8 + length + length % 2


def _bare_webp(data: bytes) -> bytes:
  """The chunks that hold pictures."""
  kept = b"WEBP"
  for kind, body in _webp_chunks(data):
    if kind == b"VP8X" and body:
      body = bytes([body[0] & ~_WEBP_FLAGS]) + body[1:]
    if kind not in _WEBP_NOTES:
      kept += kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
  return b"RIFF" + struct.pack("<I", len(kept)) + kept


def _webp_notes(data: bytes) -> tuple[bytes, bytes]:
  """(EXIF, XMP) of a WebP."""
  found = dict(_webp_chunks(data))
  return found.get(b"EXIF", b""), found.get(b"XMP ", b"")


def _orientation(exif: bytes) -> int | None:
  """The tag of a block of EXIF; None where there is none that can be read."""
  exif = exif.removeprefix(b"Exif\0\0")
  order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
  with contextlib.suppress(struct.error, KeyError):
    (at,) = struct.unpack_from(f"{order}4xI", exif) if order else (len(exif),)
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
      tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, entry)
      if tag == _ORIENTATION:
        form = {1: "B", 3: "H", 4: "I"}[kind]
        return struct.unpack_from(f"{order}{form}", exif, entry + 8)[0]
  return None
