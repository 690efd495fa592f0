"""Supervised training of a vision-language model on given answers.

The common prefix of a row's questions, images included, is run once. Each
question with its answer follows it independently of the others, as sampled
answers do (`decode`).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.models.text import qwen
from jaxreward.models.vlm import decode, prompts
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.numerics import Mean
from jaxreward.types import Array, ArrayLike, Params


@flax.struct.dataclass
class Taught:
  """G answered questions about the images of each of R rows.

  Attributes:
    stem: ids of their common prefix, one placeholder per image, [R, L].
    stem_mask: False for padding.
    texts: ids of the rest of each question with its answer, [R, G, T].
    said: mask of the answers' tokens, which are learned, [R, G, T].
    weight: of each question in the loss, [R, G].
  """

  stem: ArrayLike
  stem_mask: ArrayLike
  texts: ArrayLike
  said: ArrayLike
  weight: ArrayLike


def read(
  model: Model,
  params: Params,
  features: Float[Array, "M N D"],
  rows: Any,
  grid: tuple[int, int],
  *,
  deep: Float[Array, "M K N D"] | None = None,
  dtype: Any = jnp.float32,
) -> decode.Prefix:
  """Runs the common prefix of each row's questions.

  Args:
    model: geometry.
    params: its parameters.
    features: tokens of M images of one size, equally many per row.
    rows: "stem" and "stem_mask" [R, L]; row r shows the r-th part of the images.
    grid: rows and columns of an image's tokens.
    deep: features of inner layers.
    dtype: of the products.
  """
  count = len(features) // len(rows.stem)
  layout = prompts.spread(model, rows.stem, rows.stem_mask, grid, count)
  if deep is not None:
    deep = jnp.moveaxis(deep, 1, 0)
    deep = deep.reshape(len(deep), -1, deep.shape[-1])
  flat = features.reshape(-1, features.shape[-1])
  images = qwen.Images(flat, layout.source, deep)
  return decode.prefill(model, params, layout, images=images, dtype=dtype)


def logits(
  model: Model,
  params: Params,
  features: Float[Array, "M N D"],
  rows: Taught,
  grid: tuple[int, int],
  **options: Any,
) -> Float[Array, "R G T V"]:
  """Logits of every token of the texts; arguments as in `read`."""
  prefix = read(model, params, features, rows, grid, **options)
  return decode.logits(model, params, prefix, rows.texts)


def loss(logits: Float[Array, "R G T V"], rows: Taught) -> Mean:
  """Weighted mean negative log-likelihood of the answers' tokens."""
  scores = decode.of_tokens(logits, rows.texts)
  weights = jnp.asarray(rows.weight)[..., None] * jnp.asarray(rows.said)
  return Mean(-(scores * weights).sum(), weights.sum())


def is_right(
  logits: Float[Array, "R G T V"], rows: Taught
) -> Bool[Array, "R G"]:
  """Whether the most probable answer, token by token, is the given one."""
  same = logits.argmax(-1) == jnp.asarray(rows.texts)
  return (same | ~jnp.asarray(rows.said)).all(-1)
