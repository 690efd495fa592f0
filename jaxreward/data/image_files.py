"""Decodes image files, ignoring everything but the pixels.

Text, colour profiles, EXIF and further images are removed from a file before
Pillow decodes it, since Pillow's limits, warnings and errors about them concern
nothing that a pixel depends on. Pillow's own limit on pixels is global;
`MOST_PIXELS` replaces it without changing Pillow's globals.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import stat
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from etils import epath
from PIL import Image

from jaxreward.data import image_notes, video_files
from jaxreward.errors import UserError, one_line, shown

T = TypeVar("T")
MOST_PIXELS = 1 << 29
# Pillow's names of supported formats; those without a signature go by suffix.
FORMATS = (
  "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM",
  "ICO", "DIB", "PCX", "PSD", "QOI", "SGI", "DDS",
)  # fmt: skip
_BY_SUFFIX = {".tga": "TGA"}
# Modes that convert to RGB without loss, except for CMYK, where published code
# uses Pillow's plain formula.
MODES = ("RGB", "L", "1", "P", "PA", "RGBA", "LA", "RGBX", "CMYK", "YCbCr")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_AGAIN = "fetch or save it again"
_PNG_OUT = "save it as PNG or JPEG"
_HEAD = 512  # bytes that identify a file
# Common non-images: their first bytes, what they are, and the fix.
_OTHERS = tuple(
  (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, fix)
  for pattern, what, fix in (
    (rb"$", "it is empty", _AGAIN),
    (rb"\0+$", "it holds zeros alone", _AGAIN),
    (rb"version https://git-lfs", "it is a Git LFS pointer",
     "run `git lfs pull`"),
    (rb"\s*(<\?xml.*)?<svg|.*<!DOCTYPE svg", "it is an SVG drawing",
     "export it as PNG"),
    (rb"\s*<(!doctype html|html|head)", "it is a web page", "fetch the image"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "it is a HEIC photo",
     "`pip install pillow-heif`, or save it as JPEG"),
    (rb"....ftypavi", "it is an AVIF image, which this Pillow does not read",
     "`pip install -U pillow`, or save it as PNG"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "it is a video",
     "`pip install av`, or save a frame as PNG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "it is a JPEG XL image", _PNG_OUT),
    (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6", "it is a PDF or PostScript page",
     "export it as PNG"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "it is an archive",
     "unpack it"),
    (rb"\x93NUMPY", "it is a NumPy array", _PNG_OUT),
    (rb"[\t\n\r\x20-\x7e]+$", "it is text", "give the image's file"),
  )
)  # fmt: skip


def read(path: os.PathLike[str] | str, most: int = -1) -> bytes:
  """The content of a file, or its first `most` bytes.

  Args:
    path: of the file; or an image within a table, a `row_images.RowImage`.
    most: bytes.

  Raises:
    UserError: it is missing, cannot be read, or is not a file.
  """
  if (cell := getattr(path, "cell", None)) is not None:
    data = cell.read()
    return data if most < 0 else data[:most]
  try:
    if "://" not in str(path) and not stat.S_ISREG(os.stat(path).st_mode):
      raise UserError(f"{path}: it is no file; give the name of an image")
    with epath.Path(path).open("rb") as file:
      return file.read(most)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or one_line(error)
    raise UserError(f"{path}: {reason}") from error


def is_image(head: bytes, path: os.PathLike[str] | str) -> bool:
  """Whether a file that starts so may be an image."""
  return (
    _format_of(head[:_HEAD], path) is not None
    or (_is_heif(head) and importlib.util.find_spec("pillow_heif") is not None)
    or _is_readable_video(head)
  )


def glance(path: os.PathLike[str] | str) -> int:
  """Checks the first bytes of a file and returns its size in bytes.

  Raises:
    UserError: it cannot be read, or does not start like an image.
  """
  if (cell := getattr(path, "cell", None)) is not None:
    return cell.size  # its first bytes were checked with its row
  head = read(path, _HEAD)
  if not is_image(head, path):
    raise _foreign(head, path)
  return int(epath.Path(path).stat().length)


def decode(
  data: bytes, path: os.PathLike[str] | str, *, least: int = 0
) -> tuple[Image.Image, tuple[int, int]]:
  """(image of mode RGB, its width and height in the file).

  Args:
    data: content of the file.
    path: its name, for errors.
    least: allows a reduced size of at least this width and height where that
      decodes faster; 0 for the full size.

  Raises:
    UserError: see `images.read_image`.
  """
  return _told(path, lambda: _decode(data, path, least))


def decode_frames(
  data: bytes, path: os.PathLike[str] | str, count: int
) -> list[Image.Image]:
  """Frames of mode RGB of a clip, the middle ones of `count` equal parts.

  GIF, WebP, PNG, AVIF and the pages of TIFF have several; Pillow composes each
  with those before it. Videos are decoded by PyAV. A still image is one frame.

  Args:
    data: content of the file.
    path: its name, for errors.
    count: of the frames.

  Raises:
    UserError: see `images.read_image`.
  """
  return _told(path, lambda: _decode_frames(data, path, count))


def _decode_frames(data, path, count) -> list[Image.Image]:
  name = _format_of(data[:_HEAD], path)
  if name is None and _is_readable_video(data):
    return video_files.decode(data, count, MOST_PIXELS)
  clip = None if name is None else _opened(name, data, path)
  total = getattr(clip, "n_frames", 1)
  if clip is None or total == 1:
    return [_decode(data, path, 0)[0]] * count
  frames: list[Image.Image] = []
  for i in video_files.middles(total, count):
    clip.seek(i)
    frames.append(_to_rgb(clip.copy(), path))
  return frames


def _told(path: os.PathLike[str] | str, action: Callable[[], T]) -> T:
  """The result of decoding; what goes wrong is told in one line."""
  try:
    return action()
  except UserError:
    raise
  except Image.DecompressionBombError as error:
    raise UserError(
      f"{path}: it has more pixels than Pillow reads of this format; save it"
      " as PNG, or make it smaller"
    ) from error
  except MemoryError as error:
    raise UserError(
      f"{path}: there is no memory for its pixels; make it smaller"
    ) from error
  except Exception as error:  # decoders raise anything on a broken file
    raise UserError(
      f"{path}: the image is damaged or cut short"
      f" ({shown(one_line(error), 90)}); {_AGAIN}"
    ) from error


def _is_readable_video(data: bytes) -> bool:
  return video_files.is_video(data[:_HEAD]) and video_files.can_read()


def _decode(data, path, least):
  name = _format_of(data[:_HEAD], path)
  if name is None and _is_readable_video(data):
    (image,) = video_files.decode(data, [0], MOST_PIXELS)
    return image, image.size
  if name is None:
    if not _is_heif(data):
      raise _foreign(data[:_HEAD], path)
    image, turn = _heif(data, path), 1
  else:
    image = _loaded(name, data, path, least)
    turn = _turn_of(name, data, image)
  size = image.info.get("whole", image.size)
  image = _to_rgb(image, path)
  if turn in _TURNS:
    image = image.transpose(_TURNS[turn])
  return image, size if turn < 5 else size[::-1]


def _turn_of(name: str, data: bytes, image: Image.Image) -> int:
  if name == "AVIF":  # its decoder reports EXIF
    return image_notes.turn_of(image.info.get("exif", b""), b"")
  return image_notes.turn(name, data)  # Pillow has already turned TIFF


def _format_of(head: bytes, path: os.PathLike[str] | str) -> str | None:
  """Pillow's name of the format; None if it knows none."""
  Image.preinit()
  for name in FORMATS:
    if name not in Image.OPEN:
      Image.init()
    _, accept = Image.OPEN.get(name, (None, None))
    with contextlib.suppress(struct.error, IndexError):  # a short head
      if accept is not None and accept(head[:16]) is True:
        return name
  return _BY_SUFFIX.get(os.path.splitext(path)[1].lower())


def _is_heif(head: bytes) -> bool:
  return re.match(rb"....ftyp(hei|hev|mif1|msf1)", head, re.DOTALL) is not None


def _foreign(head: bytes, path: os.PathLike[str] | str) -> UserError:
  """The error for a file that is not an image, with what it is instead."""
  for pattern, what, fix in _OTHERS:
    if pattern.match(head):
      return UserError(f"{path}: this is not an image: {what}; {fix}")
  return UserError(f"{path}: this is not an image Pillow can read; {_PNG_OUT}")


def _loaded(name: str, data: bytes, path: Any, least: int) -> Image.Image:
  """The decoded image of a file of that format."""
  bare = image_notes.bare(name, data)
  try:
    return _load(name, bare, path, least)
  except OSError:
    if name != "JPEG" or image_notes.is_progressive(bare):
      raise
    # The file is complete if what follows its last byte changes no pixel.
    ends = (b"\xff\xd9", b"\x5a\xa5" * 64 + b"\xff\xd9")
    first, second = (_load(name, bare + end, path, least) for end in ends)
    if first.tobytes() != second.tobytes():
      raise
    return first


def _opened(name: str, data: bytes, path: Any) -> Image.Image:
  """An image of that format before its pixels are decoded."""
  image = Image.OPEN[name][0](io.BytesIO(data), "")
  width, height = image.size
  if width * height > MOST_PIXELS:
    raise UserError(
      f"{path}: it has {width} x {height} pixels, and at most {MOST_PIXELS}"
      " are read; make it smaller"
    )
  return image


def _load(name: str, data: bytes, path: Any, least: int) -> Image.Image:
  image = _opened(name, data, path)
  full_size = image.size
  if least:
    image.draft(None, (least, least))
  image.load()
  image.info["whole"] = full_size
  return image


def _heif(data: bytes, path: os.PathLike[str] | str) -> Image.Image:
  """A HEIC photo, orientation applied, by the library that reads them."""
  try:
    library = importlib.import_module("pillow_heif")
  except ImportError:
    raise _foreign(data[:_HEAD], path) from None
  return library.open_heif(io.BytesIO(data)).to_pillow()


def _to_rgb(image: Image.Image, path: os.PathLike[str] | str) -> Image.Image:
  if image.mode in _DEEP:
    return _of_deep(image, path)
  if image.mode not in MODES:
    raise UserError(
      f"{path}: images of mode {image.mode} are not read; convert it to 8-bit"
      " RGB"
    )
  if "A" in image.mode or "transparency" in image.info:
    alpha = image.convert("RGBA").getchannel("A")
    if np.asarray(alpha).min() < 255:
      raise _transparent(path)
    image = image.convert("RGBA")  # without this, palettes warn
  return image.convert("RGB")


def _of_deep(image: Image.Image, path) -> Image.Image:
  """The upper 8 bits of 16-bit grey, as Pillow reads 16-bit colours."""
  values = np.asarray(image)
  clear = image.info.get("transparency")
  if clear is not None and bool((values == clear).any()):
    raise _transparent(path)
  return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _transparent(path: os.PathLike[str] | str) -> UserError:
  return UserError(
    f"{path}: the image is partly transparent; lay it on a background and save"
    " it as RGB"
  )
