"""How Z-Image and FLUX.2 klein read prompts with Qwen3.

Yang et al. 2025, https://arxiv.org/abs/2505.09388. The prompt is a user's turn
in the model's chat template, and states are taken between layers. Z-Image takes
those before the last layer, without padding; FLUX.2 klein concatenates those
after three layers, padding included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.models.text import qwen, qwen_prompts
from jaxreward.models.text.qwen import Qwen
from jaxreward.types import Array, ArrayLike, Params

# The public template with a generation prompt, and thinking on.
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
# And with thinking off.
KLEIN_TEMPLATE = TEMPLATE + "<think>\n\n</think>\n\n"
KLEIN_LAYERS = (9, 18, 27)


def tokenize(
  tokens: Any,
  texts: Sequence[str],
  length: int,
  *,
  template: str = TEMPLATE,
  pad: int = 0,
) -> tuple[Int[np.ndarray, "B {length}"], Bool[np.ndarray, "B {length}"]]:
  """(ids, mask) of texts in the template, padded on the right.

  Args:
    tokens: transformers' tokenizer of the model.
    texts: the prompts.
    length: maximum tokens with the template, 512 in the public pipelines.
      Longer ones are truncated.
    template: with {} for the prompt.
    pad: id of the padding token.
  """
  rows = [
    tokens(template.format(text), truncation=True, max_length=length)
    for text in texts
  ]
  ids, mask = qwen_prompts.padded([row["input_ids"] for row in rows], length)
  return np.where(mask, ids, pad).astype(np.int32), mask


def first_layers(
  config: Qwen, params: Params, depth: int
) -> tuple[Qwen, Params]:
  """The model without the layers after the first `depth`."""
  layers = jax.tree.map(lambda x: x[:depth], params["layers"])
  return dataclasses.replace(config, depth=depth), params | {"layers": layers}


def encode(
  config: Qwen,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  layers: Sequence[int],
  *,
  dtype: Any = jnp.float32,
) -> Float[Array, "B L F"]:
  """States after some layers, side by side.

  Args:
    config: geometry of the tower.
    params: its parameters.
    tokens: from `tokenize`.
    mask: from the same; padding is not attended to.
    layers: counted from 1.
    dtype: of the products.
  """
  outputs: Any = qwen.QwenText(config, dtype).apply(
    {"params": params}, tokens, mask=jnp.asarray(mask), method="cached",
    mutable=["intermediates"],
  )  # fmt: skip
  (states,) = outputs[1]["intermediates"]["layers"]["states"]
  return jnp.concatenate([states[i - 1] for i in layers], -1)
