"""This library's small models, in the layout of Qwen3-VL."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxreward.errors import UserError, nearest, require_counts, shown
from jaxreward.models.text.qwen import Qwen
from jaxreward.models.vision.qwen_images import ImageProcessor
from jaxreward.models.vision.qwen_vision import Vision
from jaxreward.models.vlm import prompts, words
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.models.vlm.words import Words

PREFIX = "package:"
_ASSETS = pathlib.Path(__file__).parents[2] / "assets"


def resolve(weights: str) -> str:
  """The folder of "package:NAME"; other names are returned unchanged.

  Raises:
    UserError: an unknown name.
  """
  if not weights.startswith(PREFIX):
    return weights
  known = sorted(x.parent.name for x in _ASSETS.glob("*/config.json"))
  name = weights.removeprefix(PREFIX)
  if name not in known:
    raise UserError(
      f"weights={shown(weights, 100)}: no such judge ships{nearest(name, known)};"
      f" there are {', '.join(PREFIX + x for x in known) or 'none'}"
    )
  return str(_ASSETS / name)


def geometry(
  tokens: Words,
  *,
  width: int,
  depth: int,
  heads: int,
  groups: int,
  mlp: int,
  vision_width: int,
  vision_depth: int,
  vision_heads: int,
  vision_mlp: int,
  patch: int,
  sides: Sequence[int],
) -> Model:
  """A model for small square images.

  Args:
    tokens: its vocabulary.
    width: features per token.
    depth: layers of the language model.
    heads: of its queries.
    groups: of its keys and values.
    mlp: its hidden features.
    vision_width: features per patch.
    vision_depth: layers of the tower.
    vision_heads: of it.
    vision_mlp: its hidden features.
    patch: pixels per side of a patch; four of them are a token.
    sides: pixels of the images.

  Raises:
    UserError: heads or patches that do not divide.
  """
  require_counts(
    "config.judge.", width=width, depth=depth, heads=heads, groups=groups, mlp=mlp,
    vision_width=vision_width, vision_depth=vision_depth,
    vision_heads=vision_heads, vision_mlp=vision_mlp, patch=patch,
  )  # fmt: skip
  head = width // heads
  if width % heads or heads % groups or head % 4:
    raise UserError(
      f"config.judge: width={width}, heads={heads}, groups={groups}: heads divide"
      " the width into a multiple of 4, and groups divide the heads"
    )
  if vision_width % (4 * vision_heads):
    raise UserError(
      f"config.judge.vision_width={vision_width}: it is a multiple of 4 times"
      f" vision_heads={vision_heads}"
    )
  for side in sides:
    if side % (2 * patch):
      raise UserError(
        f"config.judge.patch={patch}: twice of it divides the {side} pixels of an"
        " image"
      )
  third = head // 2 // 3
  language = Qwen(
    width, depth, heads, groups, mlp, len(tokens.ids), 1e4,
    sections=(head // 2 - 2 * third, third, third),
    pad=tokens.ids[prompts.IMAGE], head=head, qwen3=True, tied=True,
    remat=False,
  )  # fmt: skip
  vision = Vision(
    vision_width, vision_depth, vision_heads, vision_mlp, width, patch,
    window=0, full=(), model="qwen3_vl", table=max(sides) // patch,
  )  # fmt: skip
  return Model(language, vision, tokens.ids[prompts.VIDEO])


def processor(model: Model, sides: Sequence[int]) -> ImageProcessor:
  """Keeps squares of these sizes; resizes others to their range of areas."""
  factor = model.vision.patch * model.vision.merge
  half = (0.5,) * 3
  return ImageProcessor(
    None, factor, min(sides) ** 2, max(sides) ** 2, half, half
  )


def records(
  model: Model, tokens: Words, images: ImageProcessor
) -> dict[str, dict[str, Any]]:
  """The public configs of a model by their files' names."""
  c, v = model.language, model.vision
  mark = lambda name: tokens.ids[f"<|{name}|>"]
  config = {
    "model_type": "qwen3_vl",
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": c.pad, "video_token_id": model.video,
    "vision_start_token_id": mark("vision_start"),
    "vision_end_token_id": mark("vision_end"), "tie_word_embeddings": True,
    "text_config": {
      "model_type": "qwen3_vl_text", "hidden_size": c.width,
      "num_hidden_layers": c.depth, "num_attention_heads": c.heads,
      "num_key_value_heads": c.groups, "intermediate_size": c.mlp,
      "vocab_size": c.vocabulary, "head_dim": c.head, "rms_norm_eps": c.eps,
      "hidden_act": "silu", "attention_bias": False,
      "max_position_embeddings": 512, "tie_word_embeddings": True,
      "eos_token_id": tokens.ids[words.STOP], "rope_theta": c.theta,
      "rope_parameters": {
        "rope_type": "default", "mrope_interleaved": True,
        "mrope_section": list(c.sections), "rope_theta": c.theta,
      },
    },
    "vision_config": {
      "model_type": "qwen3_vl", "hidden_size": v.width, "depth": v.depth,
      "num_heads": v.heads, "intermediate_size": v.mlp,
      "out_hidden_size": v.out, "patch_size": v.patch,
      "spatial_merge_size": v.merge, "temporal_patch_size": v.frames,
      "num_position_embeddings": v.table**2, "in_channels": 3,
      "deepstack_visual_indexes": [], "hidden_act": "gelu_pytorch_tanh",
    },
  }  # fmt: skip
  preprocessor = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "do_convert_rgb": True, "do_resize": True, "do_rescale": True,
    "do_normalize": True, "resample": 3, "rescale_factor": 1 / 255,
    "image_mean": list(images.mean), "image_std": list(images.std),
    "size": {"shortest_edge": images.least, "longest_edge": images.most},
    "patch_size": v.patch, "merge_size": v.merge,
    "temporal_patch_size": v.frames,
  }  # fmt: skip
  return {"config.json": config, "preprocessor_config.json": preprocessor}
