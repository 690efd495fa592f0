"""Parts of images that a judge asks to see closer while it thinks.

There are nine parts of an image, each half as high and as wide, and a judge names
one of them or none. The part becomes as large as the images are and is a further
picture of what it reads, so that all shapes are known beforehand.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from jaxreward.errors import UserError
from jaxreward.models.text import qwen
from jaxreward.models.vlm import decode, prompts
from jaxreward.rewards import answer_tables
from jaxreward.rewards.answer_tables import Table
from jaxreward.rewards.vision_language import PICTURE, Reader
from jaxreward.types import Array, Params

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
NUMBERS = ("first", "second", "third", "fourth")
NONE = "nothing"
BEGUN, ENDED = "<look>", "</look>"
PARTS = len(ROWS) * len(COLUMNS)


@dataclasses.dataclass(frozen=True, eq=False)
class Looks:
  """What a judge may ask to see.

  Attributes:
    table: names of the parts of each image, and of none.
    texts: token ids of what follows each thought that ends with a look, [A, L].
    mask: False for padding.
  """

  table: Table
  texts: np.ndarray
  mask: np.ndarray


def names(images: int) -> list[str]:
  """Of the parts of so many images, and of none of them."""
  parts = [f"{row} {column}" for row in ROWS for column in COLUMNS]
  if images == 1:
    return [*parts, NONE]
  return [f"{n} {x}" for n in NUMBERS[:images] for x in parts] + [NONE]


def of_reader(reader: Reader, images: int, again: str) -> Looks:
  """What a judge may ask to see of questions with so many images.

  Args:
    reader: the model.
    images: of a question.
    again: the beginning of the next thought.

  Raises:
    UserError: more images than there are names for.
  """
  if images > len(NUMBERS):
    raise UserError(
      f"looks: a question shows {images} images and a judge can name parts of"
      f" {len(NUMBERS)}; show fewer or set looks=0"
    )
  listed, texts = names(images), []
  for name in listed:
    view = PICTURE if name != NONE else ""
    text = f"{name}{ENDED}{prompts.END}\n{prompts.turn('user', view)}"
    texts.append(text + prompts.begin(again))
  rows = prompts.ids_of(reader.tokens, texts)
  table = answer_tables.table_of(reader.tokens, dict.fromkeys(listed, 0.0))
  return Looks(table, *answer_tables.padded(rows, max(map(len, rows))))


def crop(
  images: Float[Array, "B H W C"], part: Int[Array, "B"]
) -> Float[Array, "B h w C"]:
  """Half of the height and of the width of each image.

  Args:
    images: even sides.
    part: row by row, from 0 to `PARTS` - 1.
  """
  height, width, depth = images.shape[1:]
  size = height // 2, width // 2, depth

  def one(image: Array, number: Array) -> Array:
    row, column = number // len(COLUMNS), number % len(COLUMNS)
    start = row * (size[0] // 2), column * (size[1] // 2), 0
    return jax.lax.dynamic_slice(image, start, size)

  return jax.vmap(one)(images, part)


def closer(
  reader: Reader,
  params: Params,
  prefix: decode.Prefix,
  keys: Key[Array, "B"],
  images: Float[Array, "B I H W C"],
  looks: Looks,
  temperature: float,
) -> tuple[decode.Prefix, Bool[Array, "B P"]]:
  """(what has been read, with the part asked for; where its picture stands).

  Args:
    reader: the model.
    params: of it.
    prefix: what has been read, up to the name of a part.
    keys: of the draws.
    images: that the questions show.
    looks: what may be asked for.
    temperature: of the draws; 0 takes the most probable name.
  """
  fixed = jax.lax.stop_gradient((params, prefix))
  scores = looks.table.log_probs(reader.model, *fixed)
  if temperature:
    choice = jax.vmap(jax.random.categorical)(keys, scores / temperature)
  else:
    choice = scores.argmax(-1)
  number = jnp.minimum(choice // PARTS, images.shape[1] - 1)
  view = images[jnp.arange(len(images)), number]
  size = reader.size(view)
  features = reader.see(params, crop(view, choice % PARTS), size)
  layout = prompts.spread(
    reader.model, jnp.asarray(looks.texts)[choice],
    jnp.asarray(looks.mask)[choice], reader.model.vision.grid(*size), 1,
  )  # fmt: skip
  deep = features.deep
  if deep is not None:  # [B, K, N, D]
    deep = jnp.moveaxis(deep, 1, 0).reshape(deep.shape[1], -1, deep.shape[-1])
  flat = features.features.reshape(-1, features.features.shape[-1])
  images_of = qwen.Images(flat, layout.source, deep)
  old = prefix.mask.shape[1]
  prefix = decode.extended_by_images(
    reader.model, params, prefix, layout, images_of
  )
  return prefix, jnp.pad(layout.source >= 0, ((0, 0), (old, 0)))


def forget(prefix: decode.Prefix, place: Bool[Array, "B P"]) -> decode.Prefix:
  """What has been read, where further words no longer see a picture."""
  more = prefix.mask.shape[1] - place.shape[1]
  hidden = jnp.pad(place, ((0, 0), (0, more)))
  return dataclasses.replace(prefix, mask=prefix.mask & ~hidden)
