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
from jaxreward.models.vlm import (
  decode,
  prompts,
  qwen_vl,
  small_judge,
  tiny,
  words,
)
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.rewards import answer_tables
from jaxreward.rewards.contract import Loaded
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.options import require_choice
from jaxreward.types import Array, ArrayLike, Params

SOURCE = "source"
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

  def asked_text(self, question: str, begun: str = "") -> str:
    """A question in the chat form of the model."""
    is_third = self.model.vision.model == "qwen3_vl"
    system = "" if is_third else prompts.SYSTEM
    return prompts.chat(question, 0, system=system, answer=begun)

  def asked(self, questions: Sequence[str], begun: str = "") -> dict[str, Any]:
    """Token ids "text" and their "mask", [P, length].

    Args:
      questions: with `PICTURE` where each image stands.
      begun: what the answer begins with.

    Raises:
      UserError: a question that is too long.
    """
    texts = [self.asked_text(question, begun) for question in questions]
    return dict(zip(("text", "mask"), self.padded(texts), strict=True))

  def padded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) of texts, padded on the right to `length`.

    Raises:
      UserError: a text that is too long.
    """
    rows = prompts.ids_of(self.tokens, texts)
    for text, row in zip(texts, rows, strict=True):
      if len(row) > self.length:
        raise UserError(
          f"length={self.length}: a text for the judge has {len(row)} tokens:"
          f' "{shown(text, 60)}"; raise length'
        )
    return answer_tables.padded(rows, self.length)

  def branched(
    self, questions: Sequence[Sequence[str]], most: int, length: int
  ) -> dict[str, Any]:
    """Questions of each prompt as what all begin with, and how each ends.

    Args:
      questions: of each prompt, with the same images; several or none.
      most: of a prompt.
      length: most tokens of an end.

    Returns:
      "text" and "mask" [P, length] as of `asked`, "ends" and "ends_mask" [P,
      most, length of ends].

    Raises:
      UserError: a text that is too long, or an image after the words in which
        the questions differ.
    """
    stems, ends, ends_mask = [], [], []
    image = self.model.language.pad
    for listed in questions:
      texts = [self.asked_text(q) for q in listed or [""]]
      self.padded(texts)
      rows = prompts.ids_of(self.tokens, texts)
      same = 0
      while all(same < len(r) - 1 and r[same] == rows[0][same] for r in rows):
        same += 1
      tails = [row[same:] for row in rows]
      if any(image in tail for tail in tails):
        raise UserError(
          "template: the image stands after {question}; put it before, so that"
          " it is read once"
        )
      longest = max(map(len, tails))
      if longest > length:
        raise UserError(
          f"question_length={length}: a question has {longest} tokens; raise it"
        )
      stems.append(rows[0][:same])
      tails += [tails[0]] * (most - len(tails))
      for leaf, x in zip(
        (ends, ends_mask), answer_tables.padded(tails, length), strict=True
      ):
        leaf.append(x)
    text, mask = answer_tables.padded(stems, self.length)
    return {
      "text": text, "mask": mask,
      "ends": np.stack(ends), "ends_mask": np.stack(ends_mask),
    }  # fmt: skip

  def size(self, images: ArrayLike) -> tuple[int, int]:
    """Height and width that images [..., H, W, 3] are resized to."""
    return self.processor.sizes(*images.shape[-3:-1])[1]

  def see(
    self,
    params: Params,
    images: Float[Array, "B H W 3"],
    size: tuple[int, int] | None = None,
  ) -> Seen:
    """Tokens of images in [0, 1], resized to `size`, or else to their own."""
    net = qwen_vision.VisionTower(self.model.vision, self.dtype)
    prepare = preprocess.Preprocess(
      size or self.size(images),
      mean=self.processor.mean,
      std=self.processor.std,
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
  ) -> Float[Array, "B *A"]:
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


@dataclasses.dataclass(frozen=True)
class Options:
  """What every reward of a reader takes.

  Attributes:
    weights: folder or hub id of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL, or of what
      configs/pretrain_judge.py has made, or "tiny" for a tiny one with random weights.
      A name of `qwen_vl.SIZES` is a model without weights, which the job
      compile_check takes; its tokenizer is one of bytes.
    adapter: folder or hub id of a PEFT adapter (LoRA) that is added to them;
      "tiny" takes none.
    tokenizer: its folder, if it is not beside the weights.
    dtype: of parameters and compute, "float32" or "bfloat16".
    length: most tokens of a question, its image counted as one.
    microbatch: images, and questions, that are read at once; 0 for all.
    most_pixels: of an image, if fewer than the model's processor allows; 0 for
      those.
  """

  weights: str
  adapter: str = ""
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
    if self.adapter and tiny.has_no_files(self.weights):
      raise UserError(
        f'adapter={shown(self.adapter, 100)}: weights="{self.weights}" takes'
        " none; remove it, or name the weights that it was trained on"
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
  elif weights in qwen_vl.SIZES:
    model, tokens = qwen_vl.SIZES[weights], tiny.public_tokens
    params = qwen_vl.shapes(model, dtype)
    processor = qwen_images.processor_of({}, model.vision, None)
  else:
    weights = small_judge.resolve(weights)
    model, params = qwen_vl.load(weights, dtype=dtype)
    tokens = words.pretrained(options.tokenizer or weights)
    if options.adapter:
      params = qwen_vl.with_adapter(model, params, options.adapter)
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


def loaded(params: Params, prepare: Any, **static: Any) -> Loaded:
  """What a reward of a reader has loaded."""
  rules = {"params": qwen_vl.SHARDING_RULES}
  return Loaded(static, {"params": params}, rules, prepare)


def wording(
  file: str,
  default: str,
  known: Sequence[str],
  images: Sequence[str],
  needed: Sequence[str],
) -> tuple[str, int]:
  """(the question of a judge that reads images by their order, source's place).

  Args:
    file: a template, or "" for the default.
    default: the question without a file.
    known: further placeholders that it may have; it may have {source}, too.
    images: placeholders of the images, in the order in which they are shown.
    needed: further placeholders that it must have.

  Returns:
    The place is that of {source} among the images, -1 without it.

  Raises:
    UserError: see `templates.read`; an image that stands twice, or before an
      earlier one.
  """
  files, needed = [file] if file else [], (*images, *needed)
  known = (*known, *needed, SOURCE)
  (text,) = templates.read(files, default, known, needed)
  places = [n for n in templates.places(text) if n in (*images, SOURCE)]
  source = places.index(SOURCE) if SOURCE in places else -1
  if source >= 0:
    del places[source]
  if places != list(images) or prompts.IMAGE in text:
    raise UserError(
      f"template={shown(file, 100)}: images are read in the order"
      f" {', '.join(f'{{{name}}}' for name in images)}, each once, with {{source}}"
      " at most once between them"
    )
  return text, source


def filled(template: str, prompt: str, **fields: str) -> str:
  """A template as one text, its images as `PICTURE`."""
  words = {"prompt": prompts.without_marks(prompt), SOURCE: PICTURE}
  parts = templates.fill(template, fields | words)
  return "".join(part for part in parts if isinstance(part, str))
