"""ImageReward: a BLIP trained on human rankings of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models.vision import aesthetic, blip, encoders, preprocess
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

# Of the scores on the training set, as published by the authors.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LENGTH = 35

Reads = Callable[[Params, Array, Array, Array], Array]


def load_image_reward(
  weights: str,
  *,
  tokenizer: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Loaded:
  """Both towers, the head and the tokenizer, BERT's.

  Args:
    weights: ImageReward-v1.0 as safetensors, in its own layout; the sizes of
      the towers are read from its shapes.
    tokenizer: folder or hub id, such as "google-bert/bert-base-uncased", if it
      is not beside the weights.
    dtype: of parameters and compute, "float32" or "bfloat16".
    microbatch: images that go through the towers at once; 0 for all.
  """
  if dtype not in ("float32", "bfloat16"):
    raise UserError(f"dtype={dtype}: known are float32 and bfloat16")
  config = blip.config_of(weights)
  return loaded(
    config,
    blip.load(weights, config, dtype=dtype),
    prepare_with(encoders.pretrained(tokenizer or weights)),
    dtype,
    microbatch,
  )


def loaded(
  config: blip.Blip, params: Params, prepare, dtype: str, microbatch: int
) -> Loaded:
  """The reward's arguments, for towers of any size."""
  net = blip.BlipModel(config, jnp.dtype(dtype))
  prepared = preprocess.Preprocess(
    (config.image,) * 2, config.image, nearest=True
  )

  def reads(params: Params, tokens: Array, mask: Array, images: Array) -> Array:
    towers = {name: params[name] for name in ("vision", "text")}
    states: Any = net.apply({"params": towers}, tokens, mask, prepared(images))
    return aesthetic.apply(params["head"], states[:, 0].astype(jnp.float32))

  return Loaded(
    {"reads": reads, "microbatch": microbatch},
    {"params": params},
    {"params": blip.SHARDING_RULES},
    prepare,
  )


def prepare_with(tokens: Any) -> Callable[[Sequence[str]], Mapping[str, Any]]:
  """Texts -> token ids and padding mask, by a tokenizer."""

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    encoding = tokens(
      list(texts), padding="max_length", truncation=True, max_length=LENGTH
    )
    return {
      "text": np.asarray(encoding["input_ids"], np.int32),
      "mask": np.asarray(encoding["attention_mask"], bool),
    }

  return prepare


@declare(loads=load_image_reward)
def image_reward(
  images: Float[ArrayLike, "P G H W 3"],
  prompts: PromptBatch,
  *,
  reads: Reads,
  microbatch: int,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> dict[str, Float[Array, "P G"]]:
  """(head(first state) - mean) / std, about -2 to 2 (Xu et al. 2023).

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    reads: (params, tokens, mask, images) -> the head's output, [B].
    microbatch: images at once; 0 for all.
    params: of the towers and the head.
    text: the prompts' token ids.
    mask: False for padding.
  """
  images = jnp.asarray(images)
  p, g = images.shape[:2]
  usable = jnp.isfinite(images).all((2, 3, 4))
  flat = jnp.where(usable[..., None, None, None], images, 0.0)
  rows = {
    "images": flat.reshape(p * g, *images.shape[2:]),
    "tokens": jnp.repeat(jnp.asarray(text), g, 0),
    "mask": jnp.repeat(jnp.asarray(mask), g, 0),
  }
  forward = lambda r: reads(params, r["tokens"], r["mask"], r["images"])
  outputs = encoders.in_chunks(forward, rows, microbatch).reshape(p, g)
  score = (outputs - MEAN) / STD
  return {"image_reward": jnp.where(usable, score, jnp.nan)}
