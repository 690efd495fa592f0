"""Frames of files of video codecs, by PyAV (extra `video`)."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

_HEAD = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)
_STILLS = re.compile(rb"....ftyp(hei|hev|mif1|msf1|avi[fs])", re.DOTALL)
_TURNS = {
  90: Image.Transpose.ROTATE_90,
  180: Image.Transpose.ROTATE_180,
  270: Image.Transpose.ROTATE_270,
}


def is_video(head: bytes) -> bool:
  """Whether a file that starts so is one of MP4, MOV, WebM, Matroska or AVI."""
  return bool(_HEAD.match(head)) and not _STILLS.match(head)


def can_read() -> bool:
  """Whether the library that decodes videos is installed."""
  return importlib.util.find_spec("av") is not None


def middles(total: int, count: int) -> list[int]:
  """Indices of the middle frames of `count` equal parts of `total` frames."""
  return [int((i + 0.5) * total / count) for i in range(count)]


def decode(
  data: bytes, indices: Sequence[int] | int, most_pixels: int
) -> list[Image.Image]:
  """Frames of mode RGB, turned as the file says.

  Args:
    data: content of the file.
    indices: of the frames, ascending; or how many, the middle ones of so many
      equal parts.
    most_pixels: of a frame.

  Raises:
    ValueError: there is no video in it, it is too large, or frames are missing.
    Exception: what PyAV raises on a damaged file.
  """
  import av

  if isinstance(indices, int):
    with av.open(
      io.BytesIO(data), "r"
    ) as file:  # packets, without decoding them
      total = sum(p.size > 0 for p in file.demux(_stream(file, most_pixels)))
    indices = middles(total, indices)
  targets, frames = list(indices), []
  with av.open(io.BytesIO(data), "r") as file:
    for i, frame in enumerate(file.decode(_stream(file, most_pixels))):
      while targets and targets[0] == i:
        frames.append(_upright(frame))
        del targets[0]
      if not targets:
        return frames
  raise ValueError(f"frame {targets[0]} is missing")


def _stream(file: Any, most_pixels: int) -> Any:
  if not file.streams.video:
    raise ValueError("it has no video stream")
  stream = file.streams.video[0]
  if stream.width * stream.height > most_pixels:
    raise ValueError(f"a frame has {stream.width} x {stream.height} pixels")
  return stream


def _upright(frame: Any) -> Image.Image:
  image, turn = frame.to_image(), round(frame.rotation) % 360
  return image.transpose(_TURNS[turn]) if turn in _TURNS else image
