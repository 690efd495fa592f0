"""What vision-language models of the program read in images and questions.

A reader turns the questions of a batch into tokens on the host and, within the
program, images into tokens of the language model, each once however many
questions show it. Questions are templates of `remote.templates`, in the chat
form of the public models, so that a judge here and one behind a server are
asked the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError, require_counts, shown
from jaxreward.models import hub
from jaxreward.models.text import qwen
from jaxreward.models.vision import (
  encoders,
  preprocess,
  qwen_images,
  qwen_vision,
)
from jaxreward.models.vlm import decode, prompts, qwen_vl, tiny
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.rewards.contract import Loaded
from jaxreward.rewards.remote import answers, templates
from jaxreward.rewards.remote.options import require_choice
from jaxreward.types import Array, ArrayLike, Params

PICTURE = f"<|vision_start|>{prompts.IMAGE}<|vision_end|>"


@flax.struct.dataclass
class Seen:
  """Tokens of images.

  Attributes:
    features: [B, N, D].
    deep: those of inner layers, [B, K, N, D], or None.
  """

  features: Array
  deep: Array | None = None


@dataclasses.dataclass(frozen=True)
class Reader:
  """A model that reads images and questions.

  Attributes:
    model: geometry.
    tokens: its tokenizer.
    processor: of its images.
    dtype: of the products.
    length: most tokens of a question, its image counted as one.
    microbatch: images, and questions, that are read at once; 0 for all.
  """

  model: Model
  tokens: Any
  processor: qwen_images.ImageProcessor
  dtype: Any
  length: int
  microbatch: int

  def asked(self, questions: Sequence[str], begun: str = "") -> dict[str, Any]:
    """Token ids "text" and their "mask", [P, length].

    Args:
      questions: with `PICTURE` where each image stands.
      begun: what the answer begins with.

    Raises:
      UserError: a question that is too long.
    """
    is_third = self.model.vision.model == "qwen3_vl"
    system = "" if is_third else prompts.SYSTEM
    texts = [prompts.chat(q, 0, system=system, answer=begun) for q in questions]
    return dict(zip(("text", "mask"), self.padded(texts), strict=True))

  def padded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) of texts, padded on the right to `length`.

    Raises:
      UserError: a text that is too long.
    """
    ids = np.zeros((len(texts), self.length), np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, row in enumerate(prompts.ids_of(self.tokens, texts)):
      if len(row) > self.length:
        raise UserError(
          f"length={self.length}: a text for the judge has {len(row)} tokens:"
          f' "{shown(texts[i], 60)}"; raise length'
        )
      ids[i, : len(row)], mask[i, : len(row)] = row, True
    return ids, mask

  def size(self, images: ArrayLike) -> tuple[int, int]:
    """Height and width that images [..., H, W, 3] are resized to."""
    return self.processor.sizes(*images.shape[-3:-1])[1]

  def see(self, params: Params, images: Float[Array, "B H W 3"]) -> Seen:
    """Tokens of images in [0, 1]."""
    net = qwen_vision.VisionTower(self.model.vision, self.dtype)
    prepare = preprocess.Preprocess(
      self.size(images), mean=self.processor.mean, std=self.processor.std
    )

    def forward(rows: Array) -> Seen:
      outputs: Any = net.apply({"params": params["vision"]}, prepare(rows))
      features, deep = outputs
      return Seen(features, None if deep is None else deep.swapaxes(0, 1))

    return encoders.in_chunks(forward, images, self.microbatch)

  def ask(
    self,
    params: Params,
    rows: Mapping[str, Any],
    size: tuple[int, int],
    score: Callable[[decode.Prefix, Mapping[str, Any]], Array],
  ) -> Float[Array, "B"]:
    """Scores of B questions.

    Args:
      params: of the model.
      rows: "text" and "mask" [B, L], "seen" [B, I, ...] of the images that each
        shows, and what else `score` reads.
      size: of the images, in pixels.
      score: of questions that have been read.
    """
    grid = self.model.vision.grid(*size)

    def forward(rows: Mapping[str, Any]) -> Array:
      tokens = rows["seen"]
      layout = prompts.spread(
        self.model, rows["text"], rows["mask"], grid, tokens.features.shape[1]
      )
      deep = tokens.deep
      if deep is not None:  # [B, I, K, N, D]
        deep = jnp.moveaxis(deep, 2, 0)
        deep = deep.reshape(len(deep), -1, deep.shape[-1])
      features = tokens.features.reshape(-1, tokens.features.shape[-1])
      images = qwen.Images(features, layout.source, deep)
      prefix = decode.prefill(
        self.model, params, layout, images=images, dtype=self.dtype
      )
      return score(prefix, rows)

    return encoders.in_chunks(forward, dict(rows), self.microbatch)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """The answers that are compared.

  Attributes:
    ids: [A, T], padded with zeros on the right.
    mask: False for padding.
    values: of the answers, [A].
  """

  ids: np.ndarray
  mask: np.ndarray
  values: np.ndarray

  def mean(
    self, model: Model, params: Params, prefix: decode.Prefix
  ) -> Float[Array, "B"]:
    """Expected value under the answers' probabilities, which sum to one."""
    if self.ids.shape[1] == 1:
      scores = prefix.logits[:, self.ids[:, 0]]
    else:
      rows = len(prefix.mask)
      ids = jnp.broadcast_to(self.ids, (rows, *self.ids.shape))
      scores = decode.log_probs(model, params, prefix, ids)
      scores = jnp.where(self.mask, scores, 0.0).sum(-1)
    return jax.nn.softmax(scores, -1) @ jnp.asarray(self.values, jnp.float32)


def table_of(tokens: Any, values: Mapping[str, float]) -> Table:
  """The table of answers, in every spelling.

  Args:
    tokens: the tokenizer.
    values: answer -> value.

  Raises:
    UserError: an answer that the vocabulary does not have.
  """
  unknown = getattr(tokens, "unk_token_id", None)
  rows = []
  for answer in values:
    ids = prompts.ids_of(tokens, [answer])[0]
    if not ids or unknown in ids:
      raise UserError(
        f'the judge\'s vocabulary has no "{shown(answer)}", which it is asked'
        " for: take another judge or other answers"
      )
    rows.append(ids)
  ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
  mask = np.zeros(ids.shape, bool)
  for i, row in enumerate(rows):
    ids[i, : len(row)], mask[i, : len(row)] = row, True
  return Table(ids, mask, np.array(list(values.values())))


def of_choice(tokens: Any, form: answers.Choice) -> Table:
  """Words of a choice, in lower case and with a capital."""
  return table_of(
    tokens,
    {
      word: value
      for plain, value in form.values.items()
      for word in (plain, plain.capitalize())
    },
  )


def of_score(tokens: Any, form: answers.Score) -> Table:
  """Whole numbers of a scale, each with the end of the JSON that holds it.

  Raises:
    UserError: a scale without whole ends, or with more than 101 numbers.
  """
  low, high = round(form.low), round(form.high)
  if (low, high) != (form.low, form.high) or high - low > 100:
    raise UserError(
      f"low={form.low:g}, high={form.high:g}: a judge in the program compares"
      " whole numbers, 101 at most"
    )
  span = high - low
  return table_of(
    tokens, {f"{k}}}": (k - low) / span for k in range(low, high + 1)}
  )


SCORE_BEGUN = '{"score": '


@dataclasses.dataclass(frozen=True)
class Options:
  """What every reward of a reader takes.

  Attributes:
    weights: folder or hub id of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL, or "tiny"
      for a tiny one with random weights.
    tokenizer: its folder, if it is not beside the weights.
    dtype: of parameters and compute, "float32" or "bfloat16".
    length: most tokens of a question, its image counted as one.
    microbatch: images, and questions, that are read at once; 0 for all.
    most_pixels: of an image, if fewer than the model's processor allows; 0 for
      those.
  """

  weights: str
  tokenizer: str = ""
  dtype: str = "float32"
  length: int = 512
  microbatch: int = 8
  most_pixels: int = 0

  def __post_init__(self):
    require_choice("dtype", self.dtype, ("float32", "bfloat16"))
    require_counts("", length=self.length)
    require_counts(
      "", least=0, microbatch=self.microbatch, most_pixels=self.most_pixels
    )


def load(options: Options) -> tuple[Reader, Params]:
  """(reader, parameters) of a model.

  Raises:
    UserError: see `qwen_vl.load`.
  """
  weights, dtype = options.weights, options.dtype
  if weights == tiny.NAME:
    model, params, tokens = tiny.MODEL, tiny.params(dtype), tiny.tokens
    processor = qwen_images.ImageProcessor(None, 16, 16 * 16, 64 * 64)
  else:
    model, params = qwen_vl.load(weights, dtype=dtype)
    tokens = encoders.pretrained(options.tokenizer or weights)
    record = hub.read_config(weights, "preprocessor_config.json")
    processor = qwen_images.processor_of(record, model.vision, None)
  if options.most_pixels:
    fewer = lambda pixels: min(pixels, options.most_pixels)
    processor = dataclasses.replace(
      processor, least=fewer(processor.least), most=fewer(processor.most)
    )
  reader = Reader(
    model, tokens, processor, jnp.dtype(dtype), options.length,
    options.microbatch,
  )  # fmt: skip
  return reader, params


def loaded(
  reader: Reader, params: Params, prepare: Any, **static: Any
) -> Loaded:
  """What a reward of a reader has loaded."""
  return Loaded(
    {"reader": reader, **static},
    {"params": params},
    {"params": qwen_vl.SHARDING_RULES},
    prepare,
  )


def wording(
  file: str,
  default: str,
  known: Sequence[str],
  images: Sequence[str],
  needed: Sequence[str],
) -> str:
  """The question of a judge that reads images by their order.

  Args:
    file: a template, or "" for the default.
    default: the question without a file.
    known: further placeholders that it may have.
    images: placeholders of the images, in the order in which they are shown.
    needed: further placeholders that it must have.

  Raises:
    UserError: see `templates.read`; an image that stands twice, or before an
      earlier one.
  """
  files, needed = [file] if file else [], (*images, *needed)
  (text,) = templates.read(files, default, (*known, *needed), needed)
  places = [name for name in templates.places(text) if name in images]
  if places != list(images) or prompts.IMAGE in text:
    raise UserError(
      f"template={shown(file, 100)}: images are read in the order"
      f" {', '.join(f'{{{name}}}' for name in images)}, each once"
    )
  return text


def filled(template: str, prompt: str, **fields: str) -> str:
  """A template as one text, its images as `PICTURE`."""
  parts = templates.fill(
    template, {**fields, "prompt": prompts.without_marks(prompt)}
  )
  return "".join(part for part in parts if isinstance(part, str))
