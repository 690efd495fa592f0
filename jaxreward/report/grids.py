"""Images before and after training, as PNG and as cards for the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from jaxreward.files import save_arrays
from jaxreward.types import ArrayLike

GAP = 2  # pixels between the images of a grid, before scaling
PAPER = 255  # grey level of the gap
SMALL = 160  # pixels; higher images are not enlarged on cards
TEXT_KEYS = (
  "prompt",
  "kind",
  "seen_before",
  "seen_after",
  "ok_before",
  "ok_after",
)
# In the folder grids.
CARDS, VALIDATION, STRIPS = "cards.npz", "validation.npz", "strips.npz"
BESIDE = ("source", "target")  # images of a prompt that are no samples
FRAME_MS = 250  # of an animated strip
DIFFERENCE = 3  # by how much a difference is enlarged


def to_uint8(images: ArrayLike) -> np.ndarray:
  """Bytes from floats in [0, 1]: clipped, NaN is 0; uint8 passes through.

  Args:
    images: uint8 or float [N, H, W, C], C 1 or 3.

  Returns:
    uint8 [N, H, W, 3].

  Raises:
    ValueError: for another shape.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(f"images must be [N, H, W, 1 or 3], got {images.shape}")
  if images.dtype != np.uint8:
    clean = np.nan_to_num(np.asarray(images, np.float32), nan=0.0)
    images = np.round(np.clip(clean, 0, 1) * 255).astype(np.uint8)
  return np.broadcast_to(images, (*images.shape[:3], 3))


def enlarge(images: np.ndarray, scale: int) -> np.ndarray:
  """Nearest-neighbour upscaling of [N, H, W, C] by an integer factor."""
  return images.repeat(scale, axis=1).repeat(scale, axis=2)


def png(image: np.ndarray) -> bytes:
  """PNG file of one image uint8 [H, W, 3]."""
  out = io.BytesIO()
  Image.fromarray(image).save(out, format="PNG", optimize=True)
  return out.getvalue()


def animated(strip: np.ndarray, frames: int) -> bytes:
  """A PNG that plays the frames of a strip uint8 [H, frames * W, 3]."""
  first, *others = (Image.fromarray(x) for x in np.split(strip, frames, axis=1))
  out = io.BytesIO()
  first.save(
    out, format="PNG", save_all=True, append_images=others,
    duration=FRAME_MS, loop=0,
  )  # fmt: skip
  return out.getvalue()


def sample_png(image: np.ndarray, frames: int = 1) -> bytes:
  """PNG of a sample uint8 [H, W, 3], enlarged if small; a strip of frames plays."""
  large = enlarge(image[None], 3 if len(image) <= SMALL else 1)[0]
  return animated(large, frames) if frames > 1 else png(large)


def image_grid_png(
  images: ArrayLike, scale: int = 3, columns: int | None = None
) -> bytes:
  """One PNG with all images in rows, separated by a thin white gap.

  Args:
    images: uint8 or float in [0, 1], [N, H, W, 3].
    scale: integer factor of nearest-neighbour upscaling.
    columns: images per row; None makes the grid about square.

  Returns:
    The bytes of a PNG file.

  Raises:
    ValueError: if there is no image.
  """
  pixels = to_uint8(images)
  n, height, width, channels = pixels.shape
  if n == 0:
    raise ValueError("a grid needs at least one picture")
  columns = columns or int(np.ceil(np.sqrt(n)))
  rows = -(-n // columns)
  tall, wide = height + GAP, width + GAP
  shape = (rows * tall - GAP, columns * wide - GAP, channels)
  canvas = np.full(shape, PAPER, np.uint8)
  for i, image in enumerate(pixels):
    top, left = i // columns * tall, i % columns * wide
    canvas[top : top + height, left : left + width] = image
  return png(enlarge(canvas[None], scale)[0])


def data_uri(content: bytes, media: str = "image/png") -> str:
  """The content as a data URI."""
  return f"data:{media};base64,{base64.b64encode(content).decode('ascii')}"


def make_cards(
  before: ArrayLike,
  after: ArrayLike,
  texts: Sequence[Mapping[str, Any]],
  beside: Mapping[str, Mapping[int, np.ndarray]] | None = None,
  frames: int = 1,
  *,
  scale: int = 3,
) -> list[dict[str, Any]]:
  """Images with their verdicts, for the page.

  Args:
    before: uint8 or float in [0, 1], [N, H, W, 3].
    after: the same prompts and seeds after training.
    texts: one per pair: {prompt, kind, seen_before, seen_after, ok_before,
      ok_after}; missing values are None.
    beside: "source" and "target", the exact answer -> number of the pair ->
      uint8 [h, w, 3].
    frames: of a video, whose images are strips of them.
    scale: integer factor of nearest-neighbour upscaling.

  Returns:
    The texts, each with `before` and `after` as data URIs, with `source` and
    `target` where there is one, and with `difference`, of the image after
    training from its target; of videos with `before_moving` and `after_moving`.

  Raises:
    ValueError: if the lengths differ.
  """
  first, second = to_uint8(before), to_uint8(after)
  if not len(first) == len(second) == len(texts):
    raise ValueError(
      f"cards need as many pictures as texts: {len(first)} before, "
      f"{len(second)} after, {len(texts)} texts"
    )
  scale = scale if first.shape[1] <= SMALL else 1
  link = lambda image: data_uri(png(enlarge(image[None], scale)[0]))
  cards = [
    {key: text.get(key) for key in TEXT_KEYS}
    | {"before": link(a), "after": link(b)}
    for a, b, text in zip(first, second, texts, strict=True)
  ]
  beside = beside or {}
  for name, images in beside.items():
    for i, image in images.items():
      cards[i][name] = link(image)
  for i, target in beside.get("target", {}).items():
    if target.shape == second[i].shape:
      cards[i]["difference"] = link(difference(second[i], target))
  if frames > 1:
    for card, *strips in zip(cards, first, second, strict=True):
      for name, strip in zip(("before", "after"), strips, strict=True):
        large = enlarge(strip[None], scale)[0]
        card[f"{name}_moving"] = data_uri(animated(large, frames))
  return cards


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """White where two uint8 images agree, darker the more a channel differs."""
  gap = np.abs(a.astype(np.int32) - b) * DIFFERENCE
  return (255 - np.minimum(gap, 255)).astype(np.uint8)


def save_cards(
  path: epath.PathLike,
  before: ArrayLike,
  after: ArrayLike,
  texts: Sequence[Mapping[str, Any]],
  beside: Mapping[str, ArrayLike | None] | None = None,
  frames: int = 1,
) -> None:
  """Saves images and texts in one .npz.

  Args:
    path: of the file.
    before, after, texts: see `make_cards`.
    beside: names of `BESIDE` -> images [N, h, w, 3], NaN where a prompt has
      none; None if no prompt has one.
    frames: of a video, whose images are strips of them.
  """
  if not len(before) == len(after) == len(texts):
    raise ValueError(
      f"cards need as many pictures as texts: {len(before)} before, "
      f"{len(after)} after, {len(texts)} texts"
    )
  arrays: dict[str, Any] = {
    "before": to_uint8(before),
    "after": to_uint8(after),
    "frames": np.array(frames),
    "texts": np.array(json.dumps([dict(t) for t in texts], allow_nan=False)),
  }
  for name, images in (beside or {}).items():
    if images is not None:
      images = np.asarray(images)
      rows = np.flatnonzero(np.isfinite(images).all((1, 2, 3)))
      arrays[name] = to_uint8(images[rows])
      arrays[f"{name}_rows"] = rows
  save_arrays(path, **arrays)


class Cards(NamedTuple):
  """The arguments of `make_cards`: read them by name, more may be added."""

  before: np.ndarray  # uint8 [N, H, W, 3]
  after: np.ndarray  # uint8 [N, H, W, 3]
  texts: list[dict[str, Any]]
  beside: dict[str, dict[int, np.ndarray]]
  frames: int


def load_cards(path: epath.PathLike) -> Cards:
  """What `save_cards` wrote to this file."""
  content = io.BytesIO(epath.Path(path).read_bytes())
  with np.load(content, allow_pickle=False) as arrays:
    texts = json.loads(str(arrays["texts"][()]))
    beside = {
      name: dict(
        zip(arrays[f"{name}_rows"].tolist(), arrays[name], strict=True)
      )
      for name in BESIDE
      if name in arrays
    }
    frames = int(arrays["frames"])
    return Cards(arrays["before"], arrays["after"], texts, beside, frames)
