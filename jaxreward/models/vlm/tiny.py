"""A tiny model with random weights and a byte tokenizer, to try a config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import jax

from jaxreward.models.text.qwen import Qwen
from jaxreward.models.vision.qwen_vision import Vision
from jaxreward.models.vlm import qwen_vl
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.types import Params

NAME = "tiny"
_MARKS = (
  "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
  "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_IDS = {mark: 256 + i for i, mark in enumerate(_MARKS)}
# Token ids in the public models of every size.
_PUBLIC_IDS = dict(
  zip(_MARKS, (151644, 151645, 151652, 151653, 151655, 151656), strict=True)
)
_SPLIT = re.compile(f"({'|'.join(map(re.escape, _MARKS))})")
MODEL = Model(
  Qwen(
    32, 2, 4, 2, 64, 256 + len(_MARKS), sections=(1, 1, 2),
    pad=_IDS["<|image_pad|>"], head=8, tied=True,
  ),
  Vision(16, 2, 2, 32, 32, 8, window=32, full=(1,)),
  _IDS["<|video_pad|>"],
)  # fmt: skip


def has_no_files(weights: str) -> bool:
  """Whether `weights` is this model or a size without weights, and names no file."""
  return weights == NAME or weights in qwen_vl.SIZES


def _byte_tokens(
  marks: Mapping[str, int],
) -> Callable[[str], Mapping[str, list[int]]]:
  """A tokenizer of bytes and special tokens, called as in transformers."""

  def tokens(text: str) -> Mapping[str, list[int]]:
    ids: list[int] = []
    for i, part in enumerate(_SPLIT.split(text)):
      ids += [marks[part]] if i % 2 else part.encode()
    return {"input_ids": ids}

  return tokens


tokens = _byte_tokens(_IDS)
# A text has three to five times as many bytes as tokens of a public model.
public_tokens = _byte_tokens(_PUBLIC_IDS)


def params(dtype: str = "float32") -> Params:
  """The weights, always the same."""
  as_dtype = lambda x: x.astype(dtype)
  return jax.tree.map(as_dtype, qwen_vl.init(jax.random.key(0), MODEL))
