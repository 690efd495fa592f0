"""Rows of words and images as arrays of fixed shapes.

A text names each image by one placeholder, which becomes as many tokens as the
image has; texts are padded on the right to a common length, and images to a
common number of patches, so that batches of any images share one program.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models.text import qwen
from jaxreward.models.vision import qwen_vision
from jaxreward.models.vision.qwen_vision import Patches
from jaxreward.models.vlm.qwen_vl import Model, Prompts
from jaxreward.types import ArrayLike

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
_MARKS = "<|vision_start|>{}<|vision_end|>"
END = "<|im_end|>"  # ends a turn
_MARK = re.compile(r"<\|[A-Za-z_]+\|>")
SYSTEM = "You are a helpful assistant."


@dataclasses.dataclass(frozen=True)
class Shown:
  """An image or a video.

  Attributes:
    frames: [T, H, W, 3], normalised (`qwen_images.ImageProcessor`), whole
      tokens per side; one frame for an image.
    seconds: between consecutive tokens of a video.
  """

  frames: Float[np.ndarray, "T H W 3"]
  seconds: float = 1.0


@dataclasses.dataclass(frozen=True)
class Size:
  """Token grid of an image or a video in a prompt.

  Attributes:
    grid: frames, rows and columns of its tokens.
    seconds: as in `Shown`; None for an image.
  """

  grid: tuple[int, int, int]
  seconds: float | None = None


def chat(
  question: str, images: int = 1, *, system: str = SYSTEM, answer: str = ""
) -> str:
  """One turn in the template of the public models.

  Args:
    question: the user's text after the images.
    images: number of images.
    system: the system prompt; left out if empty, as in Qwen3-VL.
    answer: beginning of the answer.
  """
  dialogue = turn("system", system) if system else ""
  dialogue += turn("user", _MARKS.format(IMAGE) * images + question)
  return dialogue + begin(answer)


def turn(role: str, text: str) -> str:
  """One turn in that template."""
  return f"<|im_start|>{role}\n{text}{END}\n"


def begin(answer: str = "") -> str:
  """The beginning of an answer, in that template."""
  return f"<|im_start|>assistant\n{answer}"


def without_marks(text: str) -> str:
  """A text without the special tokens of the chat template."""
  while (less := _MARK.sub("", text)) != text:
    text = less
  return text


def video_mark(model: Model, frames: int, seconds: float) -> str:
  """A video in a text: one placeholder for each part with its own grid.

  Args:
    model: geometry; in Qwen3-VL each pair of frames follows its time.
    frames: of the video.
    seconds: from one frame to the next.
  """
  each = model.vision.frames
  if model.vision.model != "qwen3_vl":
    return _MARKS.format(VIDEO)
  middle = seconds * (each - 1) / 2
  times = [seconds * i + middle for i in range(0, frames, each)]
  return "".join(f"<{t:.1f} seconds>{_MARKS.format(VIDEO)}" for t in times)


def as_video(
  model: Model, frames: Float[np.ndarray, "T H W 3"], seconds: float
) -> list[Shown]:
  """Splits a video into the parts for the placeholders of `video_mark`.

  Args:
    model: geometry.
    frames: normalised; the last is repeated if their number is odd.
    seconds: from one frame to the next.
  """
  each = model.vision.frames
  extra = np.repeat(frames[-1:], -len(frames) % each, 0)
  frames = np.concatenate([frames, extra])
  if model.vision.model != "qwen3_vl":
    return [Shown(frames, each * seconds)]
  return [Shown(x) for x in np.split(frames, len(frames) // each)]


def bucket(tokens: int, least: int = 64) -> int:
  """The smallest of 64, 96, 128, 192, ... that fits this number of tokens."""
  size = least
  while size < tokens:
    size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size


def pack(
  model: Model,
  rows: Sequence[Sequence[int]],
  shown: Sequence[Sequence[Shown]],
  *,
  length: int = 0,
  frames: int = 0,
  patches: int = 0,
) -> Prompts:
  """Rows of token ids with their images.

  Args:
    model: geometry.
    rows: ids, one placeholder per image or part of a video (`as_video`).
    shown: what each row's placeholders stand for.
    length: tokens of every row, with those of images; 0 for the `bucket` of the
      longest, so that batches share a program.
    frames: minimum rows of patches, so that batches share a program.
    patches: minimum per frame.

  Raises:
    UserError: see `lay_out`.
  """
  vision, every = model.vision, [x for row in shown for x in row]
  sizes = [
    [
      Size(
        (max(1, len(x.frames) // vision.frames), *vision.grid(*x.frames.shape[1:3])),
        x.seconds if len(x.frames) > 1 else None,
      )
      for x in row
    ]
    for row in shown
  ]  # fmt: skip
  if not length:
    extra = lambda row: sum(math.prod(s.grid) - 1 for s in row)
    pairs = zip(rows, sizes, strict=True)
    length = bucket(max(len(row) + extra(size) for row, size in pairs))
  if not every:
    return lay_out(model, rows, sizes, length=length, stride=1)
  parts = []
  for x in every:
    count = min(len(x.frames), vision.frames)
    parts.append(
      qwen_vision.cut(vision, x.frames.reshape(-1, count, *x.frames.shape[1:]))
    )
  stacked = _stacked(vision, parts, frames, patches)
  prompts = lay_out(
    model, rows, sizes, length=length, stride=stacked.order.shape[1]
  )
  return dataclasses.replace(prompts, patches=stacked)


def _stacked(
  vision: qwen_vision.Vision, parts: list[Patches], frames: int, patches: int
) -> Patches:
  """All frames, padded to one number of patches and with empty frames."""
  window = (max(vision.side, 1) * vision.merge) ** 2
  most = max(patches, *(p.pixels.shape[1] for p in parts))
  most += -most % window
  count = sum(len(p.pixels) for p in parts)
  total, tokens = max(frames, count), most // vision.merge**2
  width = parts[0].pixels.shape[2]
  out = Patches(
    np.zeros((total, most, width), np.float32),
    np.zeros((total, most, 2), np.int32),
    np.ones((total, 2), np.int32),
    np.zeros((total, most), bool),
    np.zeros((total, tokens), np.int32),
  )
  first = 0
  for p in parts:
    rows = slice(first, first + len(p.pixels))
    for name in ("pixels", "places", "mask", "order"):
      value = getattr(p, name)
      getattr(out, name)[rows, : value.shape[1]] = value
    np.asarray(out.sizes)[rows] = p.sizes
    first += len(p.pixels)
  return out


def lay_out(
  model: Model,
  rows: Sequence[Sequence[int]],
  sizes: Sequence[Sequence[Size]],
  *,
  length: int,
  stride: int,
) -> Prompts:
  """`pack` without the pixels, which may come from elsewhere.

  Args:
    model: geometry.
    rows: ids, one placeholder per image or part of a video.
    sizes: of what each row's placeholders stand for.
    length: tokens of every row.
    stride: image tokens that a frame takes in the batch, with padding.

  Raises:
    UserError: a row with more or fewer placeholders than images, or longer than
      `length`.
  """
  shape = (len(rows), length)
  tokens, source = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
  mask, places = np.zeros(shape, bool), np.zeros((*shape, 3), np.int32)
  frame = 0  # counted over the whole batch
  pads = (model.language.pad, model.video)
  for b, (row, grids) in enumerate(zip(rows, sizes, strict=True)):
    marks = [i for i, token in enumerate(row) if token in pads]
    if len(marks) != len(grids):
      raise UserError(
        f"the text of row {b} has {len(marks)} placeholders of images and there"
        f" are {len(grids)}: name each image once"
      )
    ids: list[int] = []
    starts, last = [], 0
    for mark, size in zip(marks, grids, strict=True):
      ids += row[last:mark]
      starts.append(len(ids))
      ids += [row[mark]] * math.prod(size.grid)
      last = mark + 1
    ids += row[last:]
    patch_count = sum(math.prod(size.grid) for size in grids)
    if len(ids) > length:
      raise UserError(
        f"a prompt has {len(ids)} tokens, {patch_count} of them of {len(grids)}"
        f" pictures, and the context holds {length}: raise it, or show fewer or"
        " smaller pictures"
      )
    tokens[b, : len(ids)], mask[b, : len(ids)] = ids, True
    intervals = [
      model.pace * s.seconds if s.seconds and model.pace else 1 for s in grids
    ]
    places[b] = qwen.rope_places(
      length, starts, [s.grid for s in grids], intervals
    )
    for start, size in zip(starts, grids, strict=True):
      each = size.grid[1] * size.grid[2]
      for _ in range(size.grid[0]):
        source[b, start : start + each] = frame * stride + np.arange(each)
        start, frame = start + each, frame + 1
  return Prompts(tokens, mask, places, source)


def spread(
  model: Model,
  ids: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  grid: tuple[int, int],
  images: int,
) -> Prompts:
  """`lay_out` within a program, for images of one size.

  Args:
    model: geometry.
    ids: one placeholder per image, padded on the right.
    mask: False for padding.
    grid: rows and columns of an image's tokens.
    images: of every row.

  Returns:
    L + images * (tokens of an image - 1) tokens per row; image tokens are
    counted over all rows.
  """
  ids = jnp.asarray(ids)
  count, (rows, length) = math.prod(grid), ids.shape
  is_image = ids == model.language.pad
  sizes = jnp.where(is_image, count, 1)
  ends = jnp.cumsum(sizes, 1)
  steps = jnp.where(is_image, max(grid), 1)
  new = jnp.arange(length + images * (count - 1))
  search = jax.vmap(lambda x: jnp.searchsorted(x, new, side="right"))
  old = jnp.minimum(search(ends), length - 1)
  take = lambda x: jnp.take_along_axis(jnp.asarray(x), old, 1)
  within = new - take(ends - sizes)
  is_shown = take(is_image)
  row, column = within // grid[1], within % grid[1]
  offset = jnp.stack([0 * row, row, column], -1)
  offset = jnp.where(is_shown[..., None], offset, 0)
  number = (
    take(jnp.cumsum(is_image, 1)) - 1 + jnp.arange(rows)[:, None] * images
  )
  return Prompts(
    take(ids),
    take(mask),
    take(jnp.cumsum(steps, 1) - steps)[..., None] + offset,
    jnp.where(is_shown, number * count + within, -1),
  )


def ids_of(tokens: Any, texts: Sequence[str]) -> list[list[int]]:
  """Ids of texts that name images by placeholders.

  Args:
    tokens: transformers' tokenizer of the model.
    texts: such as those of `chat`.
  """
  return [list(tokens(text)["input_ids"]) for text in texts]
