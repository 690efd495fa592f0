"""Vision-language models as backbones: a prompt and its images in one context."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError, require_counts, shown
from jaxreward.models import fields, hub
from jaxreward.models.text.qwen import Qwen
from jaxreward.models.vision import (
  encoders,
  preprocess,
  qwen_images,
  qwen_vision,
)
from jaxreward.models.vlm import prompts, qwen_vl, small_judge
from jaxreward.models.vlm import words as word_tokens
from jaxreward.reward_models.backbones import BYTES, size_of
from jaxreward.reward_models.contract import Backbone, Features
from jaxreward.types import Array, ArrayLike, Params

_LANGUAGE = Qwen(
  32, 4, 4, 2, 48, BYTES + 3, sections=(1, 1, 2), pad=BYTES, head=8, tied=True
)
_VISION = qwen_vision.Vision(
  32, 1, 2, 64, 32, 8, 2, window=0, full=(), model="qwen2_vl"
)
TINY = qwen_vl.Model(_LANGUAGE, _VISION)
_PROMPT = "{prompt}"


def qwen_vl_towers(
  *,
  weights: str = "",
  size: str = "",
  tokenizer: str = "",
  image: int = 0,
  length: int = 128,
  question: str = "{prompt}",
  layers: Sequence[int] = (),
  dtype: str = "float32",
  microbatch: int = 16,
) -> Backbone:
  """Qwen2-VL, Qwen2.5-VL or Qwen3-VL, whose language model reads images and prompt.

  The frames of a clip stand before its prompt as one image after another; a still
  fills both frames of its patches. The prompt is the user's turn, and the answer has
  not begun.

  Args:
    weights: folder, file or hub id; see `models.hub.resolve`. Empty for random
      parameters. "package:judge" is the judge that ships, and a folder may be one
      that configs/pretrain_judge.py has made.
    size: a name of `qwen_vl.SIZES`, or "tiny", for random parameters.
    tokenizer: its folder or hub id; that of the weights if empty, and without
      weights a token per byte.
    image: pixels per side; 448 if 0, or 32 for "tiny".
    length: tokens of a question with the template after it; a prompt that is longer
      is cut.
    question: about the images, with {prompt}. Heads read the state after it, from
      which a judge would begin its answer.
    layers: whose states heads read, from 1 to the number of layers, which stands for
      the states after the last norm; the end of each quarter if empty.
    dtype: of parameters and compute, "float32" or "bfloat16".
    microbatch: images or clips that are read at once; 0 for all.

  Raises:
    UserError: layers that there are not, an image that is no whole number of
      tokens, a question without {prompt}, or one that the length does not hold.
  """
  field = "reward_model.backbone."
  weights = small_judge.resolve(weights)
  if question.count(_PROMPT) != 1:
    raise UserError(
      f'{field}question="{shown(question, 100)}": write {{prompt}} in it, once'
    )
  require_counts(f"config.{field}", least=0, microbatch=microbatch, image=image)
  if weights:
    record = fields.read(weights)
    with hub.beside(weights):
      model = qwen_vl.config_of(record)
  else:
    model = size_of(size, {"tiny": TINY, **qwen_vl.SIZES})
  side = image or (32 if model is TINY else 448)
  token = model.vision.patch * model.vision.merge
  if side % token:
    raise UserError(
      f"{field}image={side}: a token of this model is {token} pixels wide; take a"
      f" multiple, such as {max(1, side // token) * token}"
    )
  depth = model.language.depth
  quarters = tuple(sorted({-(-depth * i // 4) for i in range(1, 5)}))
  numbers = tuple(layers) or quarters
  if not all(isinstance(i, int) and 1 <= i <= depth for i in numbers):
    raise UserError(
      f"{field}layers={numbers}: the language model has layers 1 to {depth}"
    )
  grid, prepare = (
    model.vision.grid(side, side),
    _prepared(weights, model, side),
  )
  before, mark, after, words = _template(weights, tokenizer, model)
  around, room = question.split(_PROMPT), length - len(after)
  first, last = (words(part) for part in around)
  least = len(first) + len(last) + len(after)
  if length <= least:
    raise UserError(
      f"{field}length={length}: the template alone has {least} tokens; set it"
      " to more"
    )

  def whole(text: str) -> list[int]:
    tokens = words(text.join(around))
    if len(tokens) <= room:
      return tokens
    # As many tokens of the prompt as there is room for beside the question.
    return [*first, *words(text)[: length - least], *last]

  def read(texts: Sequence[str]) -> np.ndarray:
    ids = np.full((len(texts), length), -1, np.int32)
    for row, text in enumerate(texts):
      tokens = [*whole(prompts.without_marks(text)), *after]
      ids[row, : len(tokens)] = tokens
    return ids

  def features(
    params: Params, images: ArrayLike, tokens: ArrayLike
  ) -> Features:
    images, tokens = jnp.asarray(images), jnp.asarray(tokens)
    p, g = images.shape[:2]
    clips = images.reshape(p * g, -1, *images.shape[-3:])
    frames = clips.shape[1]
    start = jnp.asarray([*before, *mark * frames], jnp.int32)

    def run(rows: Any) -> Features:
      x, ids = rows["clips"], rows["tokens"]
      ids = jnp.concatenate([jnp.tile(start, (len(ids), 1)), ids], 1)
      layout = prompts.spread(
        model, jnp.maximum(ids, 0), ids >= 0, grid, frames
      )
      pixels = prepare(x.reshape(-1, *x.shape[2:]))[:, None]
      patches = qwen_vision.cut(model.vision, pixels)
      layout = dataclasses.replace(layout, patches=patches)
      last, every = qwen_vl.layer_states(
        model, params, layout, dtype=jnp.dtype(dtype)
      )
      states = [last if i == depth else every[i - 1] for i in numbers]
      mask = jnp.asarray(layout.mask)
      end = mask.sum(1)[:, None, None] - 1
      return {
        "joint": jnp.take_along_axis(last, end, 1)[:, 0].astype(jnp.float32),
        "states": last, "layers": jnp.stack(states, 1), "state_mask": mask,
      }  # fmt: skip

    rows = {"clips": clips, "tokens": jnp.repeat(tokens, g, 0)}
    outputs = encoders.in_chunks(run, rows, microbatch)
    return jax.tree.map(lambda x: x.reshape(p, g, *x.shape[1:]), outputs)

  def init(key: Array) -> Params:
    params = _towers(qwen_vl.init(key, model))
    return jax.tree.map(lambda x: x.astype(dtype), params)

  def pretrained() -> Params:
    return _towers(qwen_vl.load(weights, dtype=dtype)[1])

  return Backbone(
    init, features, (side, side, 3), length, read,
    pretrained if weights else None, qwen_vl.SHARDING_RULES,
    ("joint", "states", "layers"), takes_frames=True,
    first=r"^(text/token|vision/(patch_in|place))\b",
  )  # fmt: skip


def _towers(params: Params) -> Params:
  """Without the head of a language model, which no reward reads."""
  return {part: params[part] for part in ("text", "vision")}


def _template(
  weights: str, tokenizer: str, model: qwen_vl.Model
) -> tuple[list[int], list[int], list[int], Callable[[str], list[int]]]:
  """Ids before the images, of each between its marks, after the question; text -> ids."""
  pad = model.language.pad
  if not weights and not tokenizer:
    as_bytes = lambda text: [byte + 1 for byte in text.lower().encode()]
    return [], [BYTES + 1, pad, BYTES + 2], [BYTES - 1], as_bytes
  tokens = word_tokens.pretrained(tokenizer or weights)
  system = "" if model.vision.model == "qwen3_vl" else prompts.SYSTEM
  start, end = prompts.chat("{}", system=system).split("{}")
  first, after = prompts.ids_of(tokens, (start, end))
  if pad not in first:
    raise UserError(
      f"reward_model.backbone.tokenizer={tokenizer or weights}: it has no token"
      f" {prompts.IMAGE} of number {pad}, the model's mark of an image; take the"
      " model's own"
    )
  at = first.index(pad)
  words = lambda text: prompts.ids_of(tokens, [text])[0]
  return first[: at - 1], first[at - 1 : at + 2], after, words


def _prepared(
  weights: str, model: qwen_vl.Model, side: int
) -> preprocess.Preprocess:
  """Images in [0, 1] -> normalised ones of `side` pixels."""
  record = {}
  if weights:
    record = hub.read_config(weights, "preprocessor_config.json")
  of_file = qwen_images.processor_of(record, model.vision)
  return preprocess.Preprocess((side, side), mean=of_file.mean, std=of_file.std)
