"""ImageReward: a BLIP trained on people's rankings of pictures."""

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

# Of the scores on the training set, as published.
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
    weights: ImageReward-v1.0 as safetensors, in its own layout; its shapes
      say how large the towers are.
    tokenizer: folder or hub id, such as "google-bert/bert-base-uncased",
      where it does not lie with the weights.
    dtype: of parameters and products, "float32" or "bfloat16".
    microbatch: pictures that go through the towers at once; 0 for all.
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
  """What the reward takes, for towers of any size."""
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
  """Texts -> their ids and which are no padding, by a tokenizer."""

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    found = tokens(
      list(texts), padding="max_length", truncation=True, max_length=LENGTH
    )
    return {
      "text": np.asarray(found["input_ids"], np.int32),
      "mask": np.asarray(found["attention_mask"], bool),
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
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P prompts.
    reads: (params, tokens, mask, pictures) -> what the head gives, [B].
    microbatch: pictures at once; 0 for all.
    params: of the towers and the head.
    text: the prompts' token ids.
    mask: which of them are no padding.
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
  one = lambda r: reads(params, r["tokens"], r["mask"], r["images"])
  found = encoders.in_chunks(one, rows, microbatch).reshape(p, g)
  score = (found - MEAN) / STD
  return {"image_reward": jnp.where(usable, score, jnp.nan)}
