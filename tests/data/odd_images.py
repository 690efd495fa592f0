"""Image files that are odd but sound, and files that are no good, by code."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

from jaxreward.data import video_files

PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
MANY = 80 << 20  # bytes, more than Pillow reads of text or of a profile


def saved(kind, pixels=PIXELS, mode="RGB", **options) -> bytes:
  """A file of Pillow's."""
  file = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(file, kind, **options)
  return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
  """One of a PNG."""
  check = zlib.crc32(kind + body)
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def header(width, height, depth=8, colours=2) -> bytes:
  """The first chunk of a PNG."""
  facts = width, height, depth, colours, 0, 0, 0
  return chunk(b"IHDR", struct.pack(">IIBBBBB", *facts))


def png_with(*chunks: bytes, at=33) -> bytes:
  """The pixels as PNG, with chunks behind its header, or before its end."""
  whole = saved("PNG")
  return whole[:at] + b"".join(chunks) + whole[at:]


def deep_png() -> bytes:
  """The pixels with 16 bits, of which the lower are noise."""
  deep = (PIXELS.astype(np.uint16) << 8) + PIXELS[::-1]
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
  data = chunk(b"IDAT", zlib.compress(rows))
  return PNG + header(48, 40, depth=16) + data + chunk(b"IEND", b"")


def deep_grey() -> np.ndarray:
  return (PIXELS[..., 0].astype(np.uint16) << 8) + PIXELS[..., 1]


@functools.cache
def packed(count=MANY) -> bytes:
  """So many equal bytes, packed by zlib."""
  return zlib.compress(bytes(count), 1)


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
  """The pixels as JPEG, with segments (marker, content) behind its start."""
  whole = saved("JPEG", quality=90)
  said = b"".join(
    b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
    for marker, body in segments
  )
  return whole[:2] + said + whole[2:]


def exif_of(turn: int) -> bytes:
  exif = Image.Exif()
  exif[274] = turn
  return exif.tobytes()


def animated(kind: str, **options) -> bytes:
  """Three pictures, of which the first are the pixels."""
  frames = [Image.fromarray(np.roll(PIXELS, i, 1)) for i in range(3)]
  file = io.BytesIO()
  more = dict(save_all=True, append_images=frames[1:])
  frames[0].save(file, kind, **more, **options)
  return file.getvalue()


def transparent(mode: str) -> bytes:
  """A PNG with a pixel that is not opaque."""
  if mode == "P":
    clear = bytes([0] + [255] * 255)
    return saved("PNG", np.zeros((4, 4), np.uint8), "P", transparency=clear)
  pixels = np.full((4, 4, 4), 255, np.uint8)
  pixels[1, 1, 3] = 0
  return saved("PNG", pixels, mode)


# Files that hold PIXELS, or what a plain JPEG of them holds.
SOUND_PNG = {
  "text, packed": lambda: png_with(chunk(b"zTXt", b"Comment\0\0" + packed())),
  "text, packed, last": lambda: png_with(
    chunk(b"zTXt", b"Comment\0\0" + packed()), at=-12
  ),
  "text, international": lambda: png_with(
    chunk(b"iTXt", b"Comment\0\1\0\0\0" + packed())
  ),
  "text, plain": lambda: png_with(chunk(b"tEXt", b"a\0" + bytes(2 << 20))),
  "text, a hundred pieces": lambda: png_with(
    *[chunk(b"zTXt", b"a\0\0" + packed(1 << 20))] * 100
  ),
  "profile": lambda: png_with(chunk(b"iCCP", b"icc\0\0" + packed())),
  "profile, broken": lambda: png_with(chunk(b"iCCP", b"icc\0\0broken")),
  "text, wrong checksum": lambda: png_with(chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
  "times, broken": lambda: png_with(chunk(b"tIME", b"?"), chunk(b"pHYs", b"?")),
  "EXIF, broken": lambda: png_with(chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")),
  "no end": lambda: saved("PNG")[:-12],
  "no checksums at the end": lambda: saved("PNG")[:-20],
  "further bytes": lambda: saved("PNG") + bytes(range(256)),
  "16 bits": deep_png,
  "animated": lambda: animated("PNG"),
  "animated, broken": lambda: png_with(chunk(b"acTL", b"?")),
  "webp": lambda: saved("WEBP", lossless=True),
  "webp, animated": lambda: animated("WEBP", lossless=True),
  "webp, EXIF cut off": lambda: saved(
    "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(99)
  )[:-50],
  "tiff": lambda: saved("TIFF", compression="tiff_lzw"),
  "bmp": lambda: saved("BMP"),
  "tga": lambda: saved("TGA"),
}
SOUND_JPEG = {
  "plain": lambda: saved("JPEG", quality=90),
  "EXIF, empty": lambda: jpeg_with((0xE1, b"Exif\0\0")),
  "EXIF, no directory": lambda: jpeg_with((0xE1, b"Exif\0\0MM\0*\xff\0\0\0")),
  "EXIF, short directory": lambda: jpeg_with(
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
  ),
  "EXIF, wrong type": lambda: jpeg_with(
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\x01\x63\0\1\0\0\0\6\0\0\0")
  ),
  "EXIF, no order": lambda: jpeg_with((0xE1, b"Exif\0\0??*\0\x08\0\0\0")),
  "EXIF, turn 0": lambda: jpeg_with((0xE1, exif_of(0))),
  "EXIF, turn 9": lambda: jpeg_with((0xE1, exif_of(9))),
  "profile, broken": lambda: jpeg_with((0xE2, b"ICC_PROFILE\0\7\1broken")),
  "pages, broken": lambda: jpeg_with((0xE2, b"MPF\0broken")),
  "resources, broken": lambda: jpeg_with((0xED, b"Photoshop 3.0\0" + b"8BIM?")),
  "comments": lambda: jpeg_with(*[(0xFE, bytes(65_000))] * 40),
  "no end": lambda: saved("JPEG", quality=90)[:-2],
  "further bytes": lambda: saved("JPEG", quality=90) + b"\0\xff\xd8\xff",
  "photo with a preview": lambda: animated("MPO", quality=90),
}
# What it is called, its bytes, and words of the line that a person sees.
NO_GOOD = {
  "empty": (lambda: b"", "it is empty"),
  "zeros": (lambda: bytes(4096), "zeros alone"),
  "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid 1",
              "git lfs pull"),
  "web page": (lambda: b"\n<!DOCTYPE html><html>404</html>", "a web page"),
  "drawing": (lambda: b"<?xml version='1.0'?>\n<svg width='3'/>", "SVG"),
  "HEIC": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
  "video": (
    lambda: b"\0\0\0\x18ftypisom\0\0\0\0isom",
    "damaged or cut short" if video_files.can_read() else "it is a video",
  ),
  "JPEG XL": (lambda: b"\xff\x0a" + bytes(range(9)), "JPEG XL"),
  "page": (lambda: b"%PDF-1.7\n%\xe2\xe3", "export it as PNG"),
  "archive": (lambda: b"PK\x03\x04" + bytes(9), "unpack it"),
  "array": (lambda: b"\x93NUMPY\1\0v\0", "NumPy array"),
  "text": (lambda: b"a red circle\n", "it is text"),
  "noise": (lambda: b"\x80\x81\x82\xff" * 9, "not an image Pillow can read"),
  "PNG, cut": (lambda: saved("PNG")[:2000], "damaged or cut short"),
  "PNG, signature alone": (lambda: PNG, "damaged or cut short"),
  "PNG, wrong bytes": (
    lambda: saved("PNG")[:1000] + bytes(200) + saved("PNG")[1200:],
    "damaged or cut short",
  ),
  "PNG, no pixels": (
    lambda: PNG + header(0, 4) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
    "damaged or cut short",
  ),
  "PNG, too many pixels": (
    lambda: PNG + header(30_000, 30_000) + chunk(b"IDAT", b""),
    "30000 x 30000 pixels",
  ),
  "JPEG, half": (lambda: saved("JPEG", quality=90)[:1900], "damaged or cut"),
  "JPEG, last bytes": (lambda: saved("JPEG", quality=90)[:-9], "damaged or cut"),
  "JPEG, no scan": (lambda: saved("JPEG")[:300], "damaged or cut short"),
  "JPEG, progressive": (
    lambda: saved("JPEG", progressive=True)[:-2], "damaged or cut short"),
  "WebP, cut": (
    lambda: saved("WEBP", lossless=True)[:2000], "damaged or cut short"),
  "GIF, header alone": (lambda: b"GIF89a", "damaged or cut short"),
  "BMP, wrong": (lambda: b"BM" + bytes(30), "damaged or cut short"),
  "TIFF, cut": (lambda: saved("TIFF")[:-3000], "damaged or cut short"),
  "palette, transparent": (lambda: transparent("P"), "partly transparent"),
  "colours, transparent": (lambda: transparent("RGBA"), "partly transparent"),
  "grey, transparent": (lambda: transparent("LA"), "partly transparent"),
  "floats": (
    lambda: saved("TIFF", np.zeros((4, 4), np.float32), "F"), "mode F"),
  "Lab": (lambda: saved("TIFF", np.zeros((4, 4, 3), np.uint8), "LAB"),
          "mode LAB"),
}  # fmt: skip
