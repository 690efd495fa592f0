"""Metadata and further images in an image file, and how to strip them.

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
_WEBP_FLAGS = 0x20 | 0x08 | 0x04  # presence flags of these three


def bare(name: str, data: bytes) -> bytes:
  """A file reduced to its pixel data; unchanged for other formats.

  Args:
    name: Pillow's name of the format.
    data: the file. If it is truncated, the available pixels are kept, and for
      PNG a missing end is added.
  """
  readers = {"PNG": _bare_png, "JPEG": _bare_jpeg, "WEBP": _bare_webp}
  return readers.get(name, bytes)(data)


def turn(name: str, data: bytes) -> int:
  """The orientation, 1 to 8, from EXIF or else from XMP.

  1, upright, for other formats and if it cannot be read.
  """
  readers = {"PNG": _png_notes, "JPEG": _jpeg_notes, "WEBP": _webp_notes}
  exif, xmp = readers[name](data) if name in readers else (b"", b"")
  return turn_of(exif, xmp)


def turn_of(exif: bytes, xmp: bytes) -> int:
  """As `turn`, from blocks of EXIF and XMP; empty if there is none."""
  value = _orientation(exif)
  if value is None:
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    value = int(match[1]) if match else 1
  return value if 1 <= value <= 8 else 1


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
  """(kind, body, whole chunk) of each; the last may be truncated."""
  at = 8
  while at + 8 <= len(data):
    length, kind = struct.unpack_from(">I4s", data, at)
    end = at + 12 + length
    yield kind, data[at + 8 : end - 4], data[at:end]
    at = end


def _bare_png(data: bytes) -> bytes:
  """The chunks of the first image, and an end."""
  parts = [data[:8]]
  for kind, body, chunk in _png_chunks(data):
    if kind == b"IEND":
      break
    if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
      is_cut = len(chunk) < 12 + struct.unpack_from(">I", chunk)[0]
      parts.append(_png_chunk(kind, body) if is_cut else chunk)
  return b"".join([*parts, _png_chunk(b"IEND", b"")])


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
  """The segments of the first image; the file unchanged if it has no scan."""
  parts = [data[:2]]
  try:
    for marker, segment in _jpeg_segments(data):
      if marker not in _JPEG_NOTES:
        parts.append(segment)
  except ValueError:
    return data
  return b"".join(parts)


def is_progressive(data: bytes) -> bool:
  """Whether a JPEG is progressive; true without a scan."""
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
  """(kind, content) of each chunk; the last may be truncated."""
  at = 12
  while at + 8 <= len(data):
    kind, length = struct.unpack_from("<4sI", data, at)
    yield kind, data[at + 8 : at + 8 + length]
    at += 8 + length + length % 2


def _bare_webp(data: bytes) -> bytes:
  """The chunks of images."""
  chunks = b"WEBP"
  for kind, body in _webp_chunks(data):
    if kind == b"VP8X" and body:
      body = bytes([body[0] & ~_WEBP_FLAGS]) + body[1:]
    if kind not in _WEBP_NOTES:
      chunks += (
        kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
      )
  return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _webp_notes(data: bytes) -> tuple[bytes, bytes]:
  """(EXIF, XMP) of a WebP."""
  chunks = dict(_webp_chunks(data))
  return chunks.get(b"EXIF", b""), chunks.get(b"XMP ", b"")


def _orientation(exif: bytes) -> int | None:
  """The orientation tag of an EXIF block; None if it cannot be read."""
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
