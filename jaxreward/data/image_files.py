"""Image files as pixels, whatever else stands in them.

Text, colour profiles, EXIF and further pictures are taken out of a file before
Pillow decodes it: its limits on them, its warnings and its errors would speak
of something that no pixel depends on. Pillow's own limit on pixels is a global
one; `MOST_PIXELS` stands in its place, and no global of Pillow is changed.
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
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jaxreward.data import image_notes
from jaxreward.errors import UserError, one_line, shown

MOST_PIXELS = 1 << 29
# Pillow's names of what is read; what has no signature goes by its suffix.
FORMATS = (
  "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM",
  "ICO", "DIB", "PCX", "PSD", "QOI", "SGI", "DDS",
)  # fmt: skip
_BY_SUFFIX = {".tga": "TGA"}
# Modes that become RGB without losing or inventing anything, but for CMYK,
# where every published program takes Pillow's plain formula.
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
_HEAD = 512  # bytes that tell what a file is
# What people take for pictures: how it begins, what it is, and what to do.
_OTHERS = tuple(
  (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, mend)
  for pattern, what, mend in (
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
     "save a frame as PNG"),
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

  Raises:
    UserError: it is absent, cannot be read, or is no file.
  """
  try:
    if "://" not in str(path) and not stat.S_ISREG(os.stat(path).st_mode):
      raise UserError(f"{path}: it is no file; give the name of an image")
    with epath.Path(path).open("rb") as file:
      return file.read(most)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or one_line(error)
    raise UserError(f"{path}: {reason}") from error


def glance(path: os.PathLike[str] | str) -> int:
  """Looks at the first bytes of a file, and says how many it has.

  Raises:
    UserError: it cannot be read, or does not begin like an image.
  """
  head = read(path, _HEAD)
  if _format_of(head, path) is None and not (
    _is_heif(head) and importlib.util.find_spec("pillow_heif")
  ):
    raise _foreign(head, path)
  return int(epath.Path(path).stat().length)


def decode(
  data: bytes, path: os.PathLike[str] | str, *, least: int = 0
) -> tuple[Image.Image, tuple[int, int]]:
  """(picture of mode RGB, its width and height in the file).

  Args:
    data: content of the file.
    path: its name, for errors.
    least: the picture may come in a smaller size, of at least this width and
      height, where its decoder is then faster; 0 for its own size.

  Raises:
    UserError: see `images.read_image`.
  """
  try:
    return _decode(data, path, least)
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
  except Exception as error:  # decoders raise whatever a broken file leads to
    raise UserError(
      f"{path}: the image is damaged or cut short"
      f" ({shown(one_line(error), 90)}); {_AGAIN}"
    ) from error


def _decode(data, path, least):
  name = _format_of(data[:_HEAD], path)
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
  if name == "AVIF":  # what its decoder says is a block of EXIF
    return image_notes.turn_of(image.info.get("exif", b""), b"")
  return image_notes.turn(name, data)  # of TIFF, Pillow has turned it


def _format_of(head: bytes, path: os.PathLike[str] | str) -> str | None:
  """Pillow's name of the format; None where it knows none."""
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
  """Says of a file that is no image what it is instead."""
  for pattern, what, mend in _OTHERS:
    if pattern.match(head):
      return UserError(f"{path}: this is not an image: {what}; {mend}")
  return UserError(f"{path}: this is not an image Pillow can read; {_PNG_OUT}")


def _loaded(name: str, data: bytes, path: Any, least: int) -> Image.Image:
  """The picture of a file of that format, decoded."""
  bare = image_notes.bare(name, data)
  try:
    return _load(name, bare, path, least)
  except OSError:
    if name != "JPEG" or image_notes.is_progressive(bare):
      raise
    # Nothing is lost if what follows the last byte changes no pixel.
    ends = (b"\xff\xd9", b"\x5a\xa5" * 64 + b"\xff\xd9")
    one, other = (_load(name, bare + end, path, least) for end in ends)
    if one.tobytes() != other.tobytes():
      raise
    return one


def _load(name: str, data: bytes, path: Any, least: int) -> Image.Image:
  factory, _ = Image.OPEN[name]
  image = factory(io.BytesIO(data), "")
  width, height = whole = image.size
  if width * height > MOST_PIXELS:
    raise UserError(
      f"{path}: it has {width} x {height} pixels, and at most {MOST_PIXELS}"
      " are read; make it smaller"
    )
  if least:
    image.draft(None, (least, least))
  image.load()
  image.info["whole"] = whole
  return image


def _heif(data: bytes, path: os.PathLike[str] | str) -> Image.Image:
  """A HEIC photo, turned as it was taken, by the library that reads them."""
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
    image = image.convert("RGBA")  # palettes warn where this is left out
  return image.convert("RGB")


def _of_deep(image: Image.Image, path) -> Image.Image:
  """16-bit grey by its upper 8 bits, as Pillow reads 16-bit colours."""
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
