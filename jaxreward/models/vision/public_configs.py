"""Config files of CLIP and SigLIP pairs, for other libraries.

Each is read back by `clip_layouts.describe` or `siglip.describe`.
"""

from __future__ import annotations

from typing import Any

from jaxreward.models.vision.clip import Clip, Text, Vision
from jaxreward.models.vision.clip_layouts import ACTIVATIONS
from jaxreward.models.vision.siglip import Siglip
from jaxreward.models.vision.tower import Size


def _stack(size: Size) -> dict[str, Any]:
  names = {ours: public for public, ours in reversed(ACTIVATIONS.items())}
  return {
    "hidden_size": size.width, "num_hidden_layers": size.depth,
    "num_attention_heads": size.heads, "intermediate_size": size.mlp,
    "hidden_act": names[size.activation], "layer_norm_eps": size.eps,
  }  # fmt: skip


def of_clip(config: Clip, layout: str = "hf") -> dict[str, Any]:
  """`config.json` of transformers, or `open_clip_config.json`."""
  text, vision = config.text, config.vision
  assert text and vision
  if layout == "open_clip":
    return _of_open_clip(text, vision)
  return {
    "architectures": ["CLIPModel"], "model_type": "clip",
    "projection_dim": text.projection,
    "text_config": {
      "model_type": "clip_text_model", **_stack(text.size),
      "vocab_size": text.vocabulary, "max_position_embeddings": text.length,
      "eos_token_id": 2 if text.eos is None else text.eos,
      "projection_dim": text.projection,
    },
    "vision_config": {
      "model_type": "clip_vision_model", **_stack(vision.size),
      "patch_size": vision.patch, "image_size": vision.image,
      "projection_dim": vision.projection,
    },
  }  # fmt: skip


def _of_open_clip(text: Text, vision: Vision) -> dict[str, Any]:
  cfg = {
    "embed_dim": text.projection,
    "quick_gelu": text.size.activation == "quick_gelu",
    "text_cfg": {
      "context_length": text.length, "vocab_size": text.vocabulary,
      "width": text.size.width, "heads": text.size.heads,
      "layers": text.size.depth,
    },
    "vision_cfg": {
      "image_size": vision.image, "layers": vision.size.depth,
      "width": vision.size.width,
      "head_width": vision.size.width // vision.size.heads,
      "mlp_ratio": vision.size.mlp / vision.size.width,
      "patch_size": vision.patch,
    },
  }  # fmt: skip
  return {"model_cfg": cfg}


def of_siglip(config: Siglip) -> dict[str, Any]:
  """`config.json` of transformers."""
  kind = "siglip2" if config.flexible else "siglip"
  side: dict[str, Any] = {"image_size": config.image}
  if config.flexible:
    side = {"num_patches": (config.image // config.patch) ** 2}
  return {
    "architectures": [f"{kind.capitalize()}Model"], "model_type": kind,
    "text_config": {
      "model_type": f"{kind}_text_model", **_stack(config.text),
      "vocab_size": config.vocabulary,
      "max_position_embeddings": config.length,
      "projection_size": config.vision.width,
    },
    "vision_config": {
      "model_type": f"{kind}_vision_model", **_stack(config.vision),
      "patch_size": config.patch, **side,
    },
  }  # fmt: skip
