"""How Qwen-Image and its edit forms read prompts with Qwen2.5-VL.

Wu et al. 2025, https://arxiv.org/abs/2508.02324. The text is put into a
template, and the states of the template's prefix are dropped. The edit forms
put images before it: Qwen-Image-Edit one, its Plus form (2509 and later) one or
several, numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models.text import qwen
from jaxreward.models.text.qwen import Qwen
from jaxreward.models.vision import qwen_vision
from jaxreward.models.vision.qwen_vision import Vision
from jaxreward.types import Array, ArrayLike, Params

# The negative prompt of guidance, as published: a blank, not the empty string.
EMPTY = " "
TEMPLATE = (
  "<|im_start|>system\nDescribe the image by detailing the color, shape, size,"
  " texture, quantity, text, spatial relationships of the objects and"
  " background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>"
  "assistant\n"
)
TEMPLATE_TOKENS = 34
# An image is represented by one _PAD per token.
_PAD = "<|image_pad|>"
_PICTURE = f"<|vision_start|>{_PAD}<|vision_end|>"
PLUS_TEMPLATE = (
  "<|im_start|>system\nDescribe the key features of the input image (color,"
  " shape, size, texture, objects, background), then explain how the user's text"
  " instruction should alter or modify the image. Generate a new image that"
  " meets the user's requirements while maintaining consistency with the"
  " original input where appropriate.<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
  "\n<|im_start|>assistant\n"
)
EDIT_TEMPLATE = PLUS_TEMPLATE.replace("{}", _PICTURE + "{}")
EDIT_TEMPLATE_TOKENS = 64


def tokenize(
  tokens: Any, texts: Sequence[str], length: int
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
  """(ids, mask) of texts in Qwen-Image's template, padded on the right.

  Args:
    tokens: transformers' tokenizer of the model.
    texts: the prompts.
    length: maximum tokens of a prompt, 1024 in the public pipeline, without the
      template's prefix. Longer prompts are truncated.
  """
  total = length + TEMPLATE_TOKENS
  rows = [
    tokens(TEMPLATE.format(text), truncation=True, max_length=total)
    for text in texts
  ]
  return padded([row["input_ids"] for row in rows], total)


def tokenize_edit(
  tokens: Any,
  texts: Sequence[str],
  length: int,
  counts: Sequence[int],
  pad: int,
  *,
  numbered: bool = False,
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"], tuple[int, ...]]:
  """(ids, mask, start of each image) in the template of an edit form.

  Args:
    tokens: transformers' tokenizer of the model.
    texts: the instructions.
    length: maximum tokens of images and instruction, without the template's
      prefix. Longer texts are truncated.
    counts: tokens of each image.
    pad: id of the placeholder of an image token.
    numbered: whether images are labelled "Picture 1: " and so on, as in the
      Plus form; else there is one, unlabelled.

  Raises:
    UserError: the images leave no room for text.
  """
  name = "Picture {}: " if numbered else ""
  marks = "".join(name.format(i + 1) + _PICTURE for i in range(len(counts)))
  *before, after = PLUS_TEMPLATE.replace("{}", marks + "{}").split(_PAD)
  prefix: list[int] = []
  starts = []
  for part, count in zip(before, counts, strict=True):
    prefix += tokens(part)["input_ids"]
    starts.append(len(prefix))
    prefix += [pad] * count
  total = length + EDIT_TEMPLATE_TOKENS
  room = total - len(prefix)
  around = len(tokens(after.format(""))["input_ids"])
  if room <= around:
    least = length + around + 1 - room
    raise UserError(
      f"config.model.words={length}: the picture to edit takes {sum(counts)} of"
      f" them and leaves none for the instruction; set it to {least} and as many"
      " as instructions have, or config.text_encoder.area to less"
    )
  rows = [
    tokens(after.format(text), truncation=True, max_length=room)
    for text in texts
  ]
  ids, mask = padded([[*prefix, *row["input_ids"]] for row in rows], total)
  return ids, mask, tuple(starts)


def padded(
  rows: Sequence[Sequence[int]], length: int
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
  """(ids, mask), with zeros on the right."""
  ids = np.zeros((len(rows), length), np.int32)
  mask = np.zeros(ids.shape, bool)
  for i, row in enumerate(rows):
    ids[i, : len(row)], mask[i, : len(row)] = row, True
  return ids, mask


def encode(
  config: Qwen,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  *,
  dtype: Any = jnp.float32,
) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
  """(states, mask) for Qwen-Image; states are 0 where the mask is False.

  Args:
    config: geometry of the tower.
    params: its parameters.
    tokens: from `tokenize`.
    mask: from the same.
    dtype: of the products.
  """
  states: Any = qwen.QwenText(config, dtype).apply({"params": params}, tokens)
  return _after(states, mask, TEMPLATE_TOKENS)


def encode_edit(
  config: Qwen,
  vision: Vision,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  image_batches: Sequence[Float[ArrayLike, "B _ _ 3"]],
  *,
  starts: Sequence[int],
  dtype: Any = jnp.float32,
) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
  """(states, mask) of images and text for Qwen-Image-Edit.

  Args:
    config: geometry of the text tower.
    vision: geometry of the vision tower.
    params: {"text", "vision"}.
    tokens: from `tokenize_edit`.
    mask: from the same.
    image_batches: the images of every row, each of its own size, normalised by
      `qwen_images.ImageProcessor`; encoded one by one.
    starts: from `tokenize_edit`, one per image.
    dtype: of the products.
  """
  net = qwen_vision.VisionTower(vision, dtype)

  def encode_image(image: Array) -> Array:
    features: Any = net.apply({"params": params["vision"]}, image[None])
    return features[0][0]

  image_tokens = [
    jax.lax.map(encode_image, jnp.asarray(batch)) for batch in image_batches
  ]
  grids = [vision.grid(*batch.shape[1:3]) for batch in image_batches]
  rows, length = tokens.shape
  source = np.full((rows, length), -1)
  first = 0  # row of the features of an image
  for start, (count, number, _) in zip(
    starts, (x.shape for x in image_tokens), strict=True
  ):
    index = np.arange(count * number).reshape(count, number)
    source[:, start : start + number] = first + index
    first += index.size
  images = qwen.Images(
    jnp.concatenate([x.reshape(-1, config.width) for x in image_tokens]), source
  )
  places = qwen.rope_places(length, starts, grids)[None]
  states: Any = qwen.QwenText(config, dtype).apply(
    {"params": params["text"]}, tokens, places, images
  )
  return _after(states, mask, EDIT_TEMPLATE_TOKENS)


def _after(states: Array, mask: ArrayLike, drop: int) -> tuple[Array, Array]:
  key_mask = jnp.asarray(mask)[:, drop:]
  return jnp.where(key_mask[..., None], states[:, drop:], 0.0), key_mask
