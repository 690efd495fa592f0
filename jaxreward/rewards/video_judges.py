"""VideoAlign: three scores of a video, read at three tokens of the question."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError, nearest, shown
from jaxreward.models import convert, hub
from jaxreward.models.text import qwen
from jaxreward.models.vision import (
  encoders,
  preprocess,
  qwen_images,
  qwen_vision,
)
from jaxreward.models.vlm import prompts as marks
from jaxreward.models.vlm import qwen_vl, words
from jaxreward.models.vlm.qwen_vl import Prompts
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.options import require_choice, with_options
from jaxreward.rewards.vision_language import Options, Reader
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

ASPECTS = ("VQ", "MQ", "TA")  # visual quality, motion quality, text alignment
TOKENS = tuple(f"<|{name}_reward|>" for name in ASPECTS)
_LEAST = 128 * 28 * 28  # pixels of a frame
_PREFIX = "base_model.model."


def checkpoint(folder: pathlib.Path) -> dict[str, hub.Stored]:
  """Tensors of the latest checkpoint of a folder, by plain names.

  Raises:
    UserError: there is none.
  """
  steps = sorted(
    folder.glob("checkpoint-*"), key=lambda x: int(x.name.split("-")[-1])
  )
  names = "model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth"
  files = [path for n in names for x in steps[-1:] if (path := x / n).exists()]
  if not files:
    raise UserError(
      f"weights={folder}: it has no checkpoint-*/model.pth, nor adapter and"
      " non_lora_state_dict.pth there; fetch KwaiVGI/VideoReward whole"
    )
  tensors = {}
  for file in files[:1] if files[0].name == names[0] else files:
    for name, tensor in hub.open_weights(file).items():
      plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
      tensors[plain.replace(".default.", ".")] = tensor
  return tensors


def merged(
  params: Params,
  rules: convert.Rules,
  tensors: Mapping[str, hub.Stored],
  scale: float,
) -> Params:
  """Parameters with the tensors of a checkpoint, W + scale B A where it adapts.

  The token table may have another number of rows.

  Raises:
    UserError: a tensor that no rule names, or of another shape.
  """
  shapes = convert.public_shapes(params, rules)
  pairs = {}
  for name in shapes:
    pair = [f"{name.removesuffix('.weight')}.lora_{x}.weight" for x in "BA"]
    if all(x in tensors for x in pair):
      pairs[name] = pair
  unknown = set(tensors).difference(shapes, *pairs.values())
  if unknown:
    first, more = min(unknown), len(unknown) - 1
    raise UserError(
      f"weights: {shown(first, 100)} of the checkpoint"
      f"{f' and {more} more' if more else ''}: not of this model"
      f"{nearest(first, list(shapes))}; is base the model that was trained?"
    )
  for name, shape in shapes.items():
    expected, (b, a) = {name: shape}, pairs.get(name, ("", ""))
    if a:
      rank = tensors[a].shape[:1]
      expected |= {b: (*shape[:1], *rank), a: (*rank, *shape[1:2])}
    for key, want in expected.items():
      got = tensors[key].shape if key in tensors else want
      if key.endswith("embed_tokens.weight"):  # special tokens are added
        want = (*got[:1], *want[1:])
      if got != want or (key == a and len(shape) != 2):
        raise UserError(
          f"weights: {key} is {list(got)}, expected {list(want)}; is base the model"
          " that was trained?"
        )

  def value_of(name: str, value: np.ndarray) -> np.ndarray:
    if name in tensors:
      value = tensors[name].read().astype(np.float32)
    if name not in pairs:
      return value
    b, a = (tensors[x].read().astype(np.float32) for x in pairs[name])
    return value + scale * (b @ a)

  names = {name for name in shapes if name in tensors or name in pairs}
  return convert.replaced(params, rules, names, value_of)


@with_options
def load_video_align(
  options: Options,
  *,
  base: str = "Qwen/Qwen2-VL-2B-Instruct",
  template: str = "video_align",
  aspect: str = "all",
) -> Loaded:
  """VideoAlign's judge of videos.

  Args:
    options: see `vision_language.Options`; the weights are a folder or hub id with
      `model_config.json` and `checkpoint-*`, which has its own adapter.
    base: the model that was trained.
    template: file or name of the question; each of `TOKENS` stands in it once.
    aspect: one of `ASPECTS`, or "all" for the sum of the three.

  Raises:
    UserError: no such checkpoint, one that reads other tokens, or that does not
      fit the base; an adapter of the options.
  """
  if options.adapter:
    raise UserError(
      f"adapter={shown(options.adapter, 100)}: video_align adds that of its own"
      " weights alone; remove it"
    )
  require_choice("aspect", aspect, (*ASPECTS, "all"))
  folder = hub.resolve(options.weights)
  record = hub.read_config(folder, "model_config.json")
  part = lambda name: record.get(name) or {}
  if not part("model_config").get("use_special_tokens"):
    raise UserError(
      f"weights={options.weights}: model_config.json says nothing of special tokens;"
      " video_align reads the scores at three of them"
    )
  (question,) = templates.read([template], "", ("prompt",), ("prompt",))
  if any(question.count(token) != 1 for token in TOKENS):
    raise UserError(
      f"template={template}: each of {', '.join(TOKENS)} stands in it once"
    )
  model, params = qwen_vl.load(base, dtype=options.dtype)
  if model.vision.model == "qwen3_vl":
    raise UserError(f"base={base}: video_align reads Qwen2-VL and Qwen2.5-VL")
  tensors = checkpoint(folder)
  lora = part("peft_lora_config")
  rank, alpha = lora.get("lora_r", 16), lora.get("lora_alpha", 32)
  scale = alpha / (math.sqrt(rank) if lora.get("use_rslora") else rank)
  nested = any("language_model." in name for name in tensors)
  parts = "vision", "text"  # the head of the language is not read
  rules = [
    rule for rule in qwen_vl.rules_of(model, nested=nested)
    if rule.ours.startswith(parts)
  ]  # fmt: skip
  params = {name: params[name] for name in parts}
  head = tensors.get("rm_head.weight")
  if head is None or head.shape != (len(ASPECTS), model.language.width):
    raise UserError(
      f"weights={options.weights}: its rm_head is"
      f" {head.shape if head else 'missing'}; expected"
      f" {(len(ASPECTS), model.language.width)}"
    )
  others = {
    name: tensor for name, tensor in tensors.items()
    if name != "rm_head.weight" and not name.startswith("lm_head.")
  }  # fmt: skip
  params = {**merged(params, rules, others, scale), "reward": head.read()}
  rows = len(params["text"]["token"])
  language = dataclasses.replace(model.language, vocabulary=rows)
  model = dataclasses.replace(model, language=language)
  tokens = words.pretrained(options.tokenizer or base)
  if hasattr(tokens, "add_special_tokens"):
    tokens.add_special_tokens({"additional_special_tokens": [*TOKENS]})
  ids = [marks.ids_of(tokens, [token])[0] for token in TOKENS]
  if any(len(x) != 1 for x in ids):
    raise UserError(f"tokenizer: it has no {', '.join(TOKENS)}")
  if (last := max(max(x) for x in ids)) >= rows:
    raise UserError(
      f"tokenizer: its special tokens go up to id {last}, and the table of the"
      f" weights has {rows} rows; name the tokenizer of base"
    )
  of_file = hub.read_config(base, "preprocessor_config.json")
  processor = qwen_images.processor_of(of_file, model.vision, None)
  most = options.most_pixels or part("data_config").get("max_frame_pixels")
  processor = qwen_images.ImageProcessor(
    None, processor.factor, min(_LEAST, most or _LEAST), most or 200704,
    processor.mean, processor.std,
  )  # fmt: skip
  reader = Reader(
    model, tokens, processor, jnp.dtype(options.dtype), options.length,
    options.microbatch,
  )  # fmt: skip
  before, after = marks.chat("{}", 0).split("{}")
  start, end = marks.video_mark(model, 2, 1.0).split(marks.VIDEO)
  (first,) = marks.ids_of(tokens, [before + start])
  scaling = part("inference_config")
  number = lambda name, x: np.array(
    [scaling.get(f"{a}_{name}", x) for a in ASPECTS], np.float32
  )
  weight = np.array([aspect in (a, "all") for a in ASPECTS], np.float32)

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    fill = lambda text: question.replace("{prompt}", marks.without_marks(text))
    rows = [end + fill(text) + after for text in texts]
    return dict(zip(("text", "mask"), reader.padded(rows), strict=True))

  return vl.loaded(
    params, prepare, reader=reader, first=tuple(first),
    special=tuple(x[0] for x in ids),
    scaling=tuple(map(tuple, (number("mean", 0), number("std", 1), weight))),
  )  # fmt: skip


@declare(loads=load_video_align, takes_frames=True)
def video_align(
  images: Float[ArrayLike, "P G *F H W 3"],
  prompts: PromptBatch,
  *,
  reader: Reader,
  first: tuple[int, ...],
  special: tuple[int, ...],
  scaling: tuple[tuple[Any, ...], ...],
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> dict[str, Float[Array, "P G"]]:
  """VideoAlign's score of a video: looks, motion and words, each standardised.

  Liu et al. 2025, https://arxiv.org/abs/2501.13918, read in the authors' code: a
  Qwen2-VL reads the video and one question with three special tokens; a linear head
  of three rows gives score k at token k, (score - mean) / std by
  `model_config.json`, and the three are summed. All frames that the policy draws
  are read, in twos, where the authors take two a second; the default question is in
  this library's words (`template` takes the authors' own).

  Args:
    images: frames in [0, 1]; a video with a value that is not finite scores NaN.
    prompts: P prompts.
    reader: the model.
    first: token ids before the video.
    special: ids at which the scores are read.
    scaling: means, deviations and weights of the three.
    params: of the model, with its "reward" head.
    text: token ids after the video.
    mask: False for padding.
  """
  del prompts
  images = jnp.asarray(images)
  clips = images if images.ndim == 6 else images[:, :, None]
  p, g = clips.shape[:2]
  usable = jnp.isfinite(clips).all((2, 3, 4, 5))
  clips = jnp.where(usable[..., None, None, None, None], clips, 0.0)
  if clips.shape[2] % 2:
    clips = jnp.concatenate([clips, clips[:, :, -1:]], 2)
  each = lambda x: jnp.repeat(jnp.asarray(x), g, 0)
  rows = {
    "clips": clips.reshape(p * g, *clips.shape[2:]),
    "text": each(text), "mask": each(mask),
  }  # fmt: skip
  scores = encoders.in_chunks(
    lambda x: _scores(reader, params, first, special, x), rows,
    reader.microbatch,
  )  # fmt: skip
  mean, std, weight = (jnp.asarray(x, jnp.float32) for x in scaling)
  total = ((scores - mean) / std * weight).sum(-1).reshape(p, g)
  return {"video_align": jnp.where(usable, total, jnp.nan)}


def _scores(
  reader: Reader,
  params: Params,
  first: Sequence[int],
  special: Sequence[int],
  rows: Mapping[str, Array],
) -> Float[Array, "B 3"]:
  """Of B videos with their questions, as the head gives them."""
  model, clips = reader.model, rows["clips"]
  count, frames = clips.shape[:2]
  size = reader.size(clips)
  prepare = preprocess.Preprocess(
    size, mean=reader.processor.mean, std=reader.processor.std
  )
  pixels = prepare(clips.reshape(-1, *clips.shape[2:]))
  pixels = pixels.reshape(-1, model.vision.frames, *pixels.shape[1:])
  grid = (frames // model.vision.frames, *model.vision.grid(*size))
  length = math.prod(grid)
  head = jnp.asarray([*first, *[model.video] * length], jnp.int32)
  tokens = jnp.concatenate([jnp.tile(head, (count, 1)), rows["text"]], 1)
  before = jnp.ones((count, len(head)), bool)
  at = np.arange(tokens.shape[1]) - len(first)
  is_shown = (at >= 0) & (at < length)
  source = np.arange(count)[:, None] * length + at
  places = qwen.rope_places(tokens.shape[1], [len(first)], [grid])
  states = qwen_vl.states(
    model, {k: params[k] for k in ("vision", "text")},
    Prompts(
      tokens, jnp.concatenate([before, rows["mask"]], 1),
      jnp.tile(jnp.asarray(places), (count, 1, 1)),
      np.where(is_shown, source, -1),
      qwen_vision.cut(model.vision, pixels),
    ),
    dtype=reader.dtype,
  )  # fmt: skip
  end = [(tokens == x).argmax(-1) for x in special]
  ends = jnp.stack([states[jnp.arange(count), x] for x in end], 1)
  weight = jnp.asarray(params["reward"], jnp.float32)
  return jnp.einsum("bkd,kd->bk", ends.astype(jnp.float32), weight)
