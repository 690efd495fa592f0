"""Public layouts of CLIP weights: those of transformers and of open_clip."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError, nearest
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import LINEAR, Rule, conv, linear, norm
from jaxreward.models.vision import aesthetic, clip
from jaxreward.models.vision.clip import Clip, Text, Vision
from jaxreward.models.vision.tower import Size

# Names in transformers.
ACTIVATIONS = {
  "quick_gelu": "quick_gelu",
  "gelu": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "silu": "silu",
}
OPEN_CLIP_CONFIG = "open_clip_config.json"


def hf_layers(ours: str, public: str, depth: int) -> tuple[Rule, ...]:
  """Layers of CLIP and SigLIP towers as transformers names them."""
  layers = range(depth)
  at = f"{public}encoder.layers.{{}}"
  attention = tuple(f"{at}.self_attn.{x}_proj" for x in "qkv")
  return (
    *norm(f"{ours}/norm_1", f"{at}.layer_norm1", layers),
    *linear(f"{ours}/qkv", attention, layers),
    *linear(f"{ours}/out", f"{at}.self_attn.out_proj", layers),
    *norm(f"{ours}/norm_2", f"{at}.layer_norm2", layers),
    *linear(f"{ours}/up", f"{at}.mlp.fc1", layers),
    *linear(f"{ours}/down", f"{at}.mlp.fc2", layers),
  )


def hf_text(
  config: Text, ours: str = "text/", at: str = "text_model."
) -> tuple[Rule, ...]:
  """Table of a text tower.

  Args:
    config: geometry.
    ours: path of the tower, "" if it is stand-alone.
    at: prefix of public names.
  """
  rules = (
    Rule(f"{ours}token", f"{at}embeddings.token_embedding.weight"),
    Rule(f"{ours}position", f"{at}embeddings.position_embedding.weight"),
    *hf_layers(f"{ours}stack/layers", at, config.size.depth),
    *norm(f"{ours}norm", f"{at}final_layer_norm"),
    Rule("", f"{at}embeddings.position_ids"),
  )
  if config.projection:
    rules += linear(f"{ours}projection", "text_projection", bias=False)
  return rules


def hf_vision(config: Vision, at: str = "vision_model.") -> tuple[Rule, ...]:
  """Table of an image tower; "pre_layrnorm" is the public spelling.

  Args:
    config: geometry.
    at: prefix of public names; "" if the tower was saved alone.
  """
  embeddings = f"{at}embeddings"
  rules = (
    Rule("vision/class", f"{embeddings}.class_embedding"),
    *conv(
      "vision/patches/embedding", f"{embeddings}.patch_embedding", bias=False
    ),
    Rule("vision/position", f"{embeddings}.position_embedding.weight"),
    Rule("", f"{embeddings}.position_ids"),
    *norm("vision/norm_in", f"{at}pre_layrnorm"),
    *hf_layers("vision/stack/layers", at, config.size.depth),
    *norm("vision/norm_out", f"{at}post_layernorm"),
  )
  if config.projection:
    rules += linear("vision/projection", "visual_projection", bias=False)
  return rules


def _open_clip_layers(ours: str, at: str, depth: int) -> tuple[Rule, ...]:
  layers = range(depth)
  return (
    *norm(f"{ours}/norm_1", f"{at}.ln_1", layers),
    Rule(f"{ours}/qkv/kernel", f"{at}.attn.in_proj_weight", LINEAR, layers),
    Rule(f"{ours}/qkv/bias", f"{at}.attn.in_proj_bias", layers=layers),
    *linear(f"{ours}/out", f"{at}.attn.out_proj", layers),
    *norm(f"{ours}/norm_2", f"{at}.ln_2", layers),
    *linear(f"{ours}/up", f"{at}.mlp.c_fc", layers),
    *linear(f"{ours}/down", f"{at}.mlp.c_proj", layers),
  )


def rules_of(config: Clip, layout: str) -> tuple[Rule, ...]:
  """Table of public names in layout "hf" or "open_clip"."""
  text, vision = config.text, config.vision
  rules: tuple[Rule, ...] = ()
  if text and vision:
    rules += (Rule("logit_scale", "logit_scale"),)
  if layout == "hf":
    rules += hf_text(text) if text else ()
    return rules + (hf_vision(vision) if vision else ())
  if text:
    rules += (
      Rule("text/token", "token_embedding.weight"),
      Rule("text/position", "positional_embedding"),
      *_open_clip_layers(
        "text/stack/layers", "transformer.resblocks.{}", text.size.depth
      ),
      *norm("text/norm", "ln_final"),
      Rule("text/projection/kernel", "text_projection"),
      Rule("", "attn_mask"),
    )
  # Integers in the archives of the first CLIP models.
  numbers = ("input_resolution", "context_length", "vocab_size")
  rules += tuple(Rule("", name) for name in numbers)
  if vision:
    rules += (
      Rule("vision/class", "visual.class_embedding"),
      *conv("vision/patches/embedding", "visual.conv1", bias=False),
      Rule("vision/position", "visual.positional_embedding"),
      *norm("vision/norm_in", "visual.ln_pre"),
      *_open_clip_layers(
        "vision/stack/layers",
        "visual.transformer.resblocks.{}",
        vision.size.depth,
      ),
      *norm("vision/norm_out", "visual.ln_post"),
    )
    if vision.projection:
      rules += (Rule("vision/projection/kernel", "visual.proj"),)
  return rules


def size_of(record: Mapping[str, Any], defaults: Mapping[str, Any]) -> Size:
  """Geometry of a stack, from a tower's transformers config.

  Args:
    record: the tower's part of `config.json`.
    defaults: for fields missing in old files.

  Raises:
    UserError: an unknown activation, or a field that is missing or not a
      number.
  """
  record = {**defaults, **record}
  name = record.get("hidden_act")
  if not isinstance(name, str) or name not in ACTIVATIONS:
    raise UserError(
      f"config.json: hidden_act={name} is not known"
      f"{nearest(str(name), ACTIVATIONS)}"
    )
  field = functools.partial(hub.field, record, of="config.json")
  return Size(
    field("hidden_size", int),
    field("num_hidden_layers", int),
    field("num_attention_heads", int),
    field("intermediate_size", int),
    ACTIVATIONS[name],
    field("layer_norm_eps", float),
  )


_DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT = _DEFAULTS | {
  "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
  "intermediate_size": 2048, "vocab_size": 49408, "eos_token_id": 49407,
  "max_position_embeddings": 77, "projection_dim": 512,
}  # fmt: skip
_VISION = _DEFAULTS | {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
  "intermediate_size": 3072, "image_size": 224, "patch_size": 32,
  "projection_dim": 512,
}  # fmt: skip


_SIZES = (
  "hidden_size", "num_hidden_layers", "num_attention_heads",
  "intermediate_size", "hidden_act", "layer_norm_eps",
)  # fmt: skip
TEXT_FIELDS = fields.Fields(
  read=(
    *_SIZES, "vocab_size", "max_position_embeddings", "eos_token_id",
    "projection_dim",
  ),
  unread=fields.TRANSFORMERS,
)  # fmt: skip
VISION_FIELDS = fields.Fields(
  read=(*_SIZES, "image_size", "patch_size", "projection_dim"),
  fixed={"num_channels": (3,)},
  unread=fields.TRANSFORMERS,
)
BOTH_FIELDS = fields.Fields(
  read=(
    "projection_dim", "text_config", "vision_config", "text_config_dict",
    "vision_config_dict",
  ),
  # Scores are scaled by the stored tensor.
  unread=(*fields.TRANSFORMERS, "logit_scale_init_value"),
)  # fmt: skip


def text_of(record: Mapping[str, Any], projection: int | None = None) -> Text:
  """A text tower from its config; `projection` overrides the config's."""
  fields.check(record, TEXT_FIELDS, of="config.json: text_config")
  full: dict[str, Any] = {**_TEXT, **record}
  field = functools.partial(hub.field, full, kind=int, of="config.json")
  eos = full["eos_token_id"]
  return Text(
    size_of(record, _TEXT),
    field("vocab_size"),
    field("max_position_embeddings"),
    None if eos == 2 else eos,  # old files say 2 and pool at the largest
    field("projection_dim") if projection is None else projection,
  )


def vision_of(
  record: Mapping[str, Any], projection: int | None = None
) -> Vision:
  """An image tower from its config; `projection` overrides the config's."""
  fields.check(record, VISION_FIELDS, of="config.json: vision_config")
  full: dict[str, Any] = {**_VISION, **record}
  field = functools.partial(hub.field, full, kind=int, of="config.json")
  return Vision(
    size_of(record, _VISION),
    field("patch_size"),
    field("image_size"),
    field("projection_dim") if projection is None else projection,
  )


def _of_hf(record: Mapping[str, Any]) -> Clip:
  kind = record.get("model_type", "clip")
  if kind == "clip_text_model":
    return Clip(text_of(record), None)
  if kind == "clip_vision_model":
    return Clip(None, vision_of(record))
  if kind != "clip":
    raise UserError(f'config.json describes a "{kind}", not a CLIP model')
  fields.check(record, BOTH_FIELDS, of="config.json")
  projection = hub.field(
    record, "projection_dim", int, of="config.json", default=512
  )

  def part(tower: str) -> Mapping[str, Any]:
    # Old files hold only non-default values, twice.
    legacy = f"{tower}_config_dict"
    name = legacy if record.get(legacy) else f"{tower}_config"
    return hub.field(record, name, dict, of="config.json", default={})

  return Clip(
    text_of(part("text"), projection), vision_of(part("vision"), projection)
  )


_OPEN_MODEL = fields.Fields(
  read=("embed_dim", "quick_gelu", "text_cfg", "vision_cfg"),
  unread=("cast_dtype", "custom_text", "init_logit_scale"),
)
_OPEN_TEXT = fields.Fields(
  read=("context_length", "vocab_size", "width", "heads", "layers"),
  fixed={
    "mlp_ratio": (4,), "pool_type": ("argmax",), "proj_type": ("linear",),
  },
  unread=("hf_tokenizer_name",),
)  # fmt: skip
_OPEN_VISION = fields.Fields(
  read=(
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size",
  ),
  fixed={"pool_type": ("tok",), "pos_embed_type": ("learnable",)},
  unread=(
    "patch_dropout",  # of training
    # of poolers and towers enabled by other fields
    "attn_pooler_heads", "attn_pooler_queries", "timm_proj",
  ),
)  # fmt: skip


def _of_open_clip(record: Mapping[str, Any]) -> Clip:
  of = OPEN_CLIP_CONFIG
  cfg = hub.field(record, "model_cfg", dict, of=of)
  text = hub.field(cfg, "text_cfg", dict, of=of)
  vision = hub.field(cfg, "vision_cfg", dict, of=of)
  foreign = {"timm_model_name", "hf_model_name"} & {*text, *vision}
  if foreign:
    raise UserError(
      f"{OPEN_CLIP_CONFIG} has {', '.join(sorted(foreign))}: towers of other"
      " libraries are not read; use a checkpoint whose towers are open_clip's"
    )
  for part, known, name in (
    (cfg, _OPEN_MODEL, of),
    (text, _OPEN_TEXT, f"{of}: text_cfg"),
    (vision, _OPEN_VISION, f"{of}: vision_cfg"),
  ):
    fields.check(part, known, of=name)
  active = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
  text_field = functools.partial(hub.field, text, of=f"{of}: text_cfg")
  vision_field = functools.partial(hub.field, vision, of=f"{of}: vision_cfg")
  projection = hub.field(cfg, "embed_dim", int, of=of)
  width = text_field("width", int)
  stack = Size(
    width, text_field("layers", int), text_field("heads", int, default=8), 4 * width,
    active,
  )  # fmt: skip
  vocab = text_field("vocab_size", int, default=49408)
  text_config = Text(
    stack,
    vocab,
    text_field("context_length", int, default=77),
    None,
    projection,
  )
  width = vision_field("width", int)
  heads = width // vision_field("head_width", int, default=64)
  mlp = int(width * vision_field("mlp_ratio", float, default=4))
  stack = Size(width, vision_field("layers", int), heads, mlp, active)
  side = vision_field("image_size", int)
  return Clip(
    text_config,
    Vision(stack, vision_field("patch_size", int), side, projection),
  )


def describe(spec: os.PathLike[str] | str, size: str = "") -> tuple[Clip, str]:
  """(architecture, layout "hf" or "open_clip") of a checkpoint.

  Args:
    spec: see `hub.resolve`.
    size: a name of `clip.SIZES`, for weights without a config beside them.

  Raises:
    UserError: neither config nor size, or not a CLIP.
  """
  layout = "hf"
  if "visual.conv1.weight" in hub.open_weights(spec):
    layout = "open_clip"
  if size:
    if size not in clip.SIZES:
      raise UserError(
        f"size={size} is not known{nearest(size, clip.SIZES)}; known:"
        f" {', '.join(clip.SIZES)}"
      )
    return clip.SIZES[size], layout
  name = OPEN_CLIP_CONFIG if layout == "open_clip" else "config.json"
  record = hub.read_config(spec, name)
  if not record:
    raise UserError(
      f"{spec} has no {name} beside the weights; put it there or name one of"
      f" size={', '.join(clip.SIZES)}"
    )
  with hub.beside(spec):
    return (_of_hf if layout == "hf" else _of_open_clip)(record), layout


def shapes(config: Clip, dtype: str = "float32") -> Any:
  """The parameters of both towers as `jax.ShapeDtypeStruct`."""
  net = clip.ClipModel(config)
  side = config.vision.image if config.vision else 0
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  length = config.text.length if config.text else 0
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  key = jax.random.key(0)
  if not config.vision:
    variables = jax.eval_shape(
      lambda k, t: net.init(k, t, method="encode_text"), key, tokens
    )
  elif not config.text:
    variables = jax.eval_shape(
      lambda k, x: net.init(k, x, method="encode_image"), key, images
    )
  else:
    variables = jax.eval_shape(net.init, key, tokens, images)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


_TEXT_TENSORS = {
  "hf": ("text_model.*", "text_projection.*", "logit_scale"),
  "open_clip": (
    "transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*",
    "text_projection", "logit_scale", "attn_mask",
  ),
}  # fmt: skip


_PROJECTION = {"hf": "visual_projection.weight", "open_clip": "visual.proj"}
_VISION_TENSORS = {
  "hf": ("vision_model.*", _PROJECTION["hf"]),
  "open_clip": ("visual.*",),
}


def towers(layout: str) -> tuple[Rule, ...]:
  """Rules that skip every tensor of a pair's towers."""
  return tuple(
    Rule("", n) for n in (*_VISION_TENSORS[layout], *_TEXT_TENSORS[layout])
  )


def load_vision(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Vision, Any]:
  """(geometry, {"vision": parameters}) of a tower, without its projection.

  Its tensors are called "vision_model.*" or, if the tower was saved alone, have
  no prefix; errors refer to the closer of the two layouts.

  Args:
    spec: see `hub.resolve`; other tensors are ignored.
    dtype: of the parameters.

  Raises:
    UserError: see `describe` and `convert.load_params`; or no image tower.
  """
  config, layout = describe(spec)
  if config.vision is None:
    raise UserError(f"{spec} has no image tower")
  vision = dataclasses.replace(config.vision, projection=0)
  alone = Clip(None, vision)
  ignored = (*_TEXT_TENSORS[layout], _PROJECTION[layout])
  rules = rules_of(alone, layout)
  if layout == "hf":
    rules = _closer(rules, hf_vision(vision, ""), hub.open_weights(spec))
  rules += tuple(Rule("", n) for n in ignored)
  return vision, convert.load_params(spec, rules, shapes(alone, dtype))


def _closer(
  first: tuple[Rule, ...], second: tuple[Rule, ...], names: Collection[str]
) -> tuple[Rule, ...]:
  """The table with more names in the file; the first one on a tie."""
  count_stored = lambda rules: sum(
    name in names for rule in rules for part in rule.names() for name in part
  )
  return second if count_stored(second) > count_stored(first) else first


def load(
  spec: os.PathLike[str] | str,
  *,
  size: str = "",
  dtype: str = "float32",
  texts: bool = True,
) -> tuple[Clip, Any]:
  """(architecture, parameters) of a public checkpoint in either layout.

  Args:
    spec: see `hub.resolve`.
    size: see `describe`.
    dtype: of the parameters.
    texts: False skips the text tower, and ignores an `aesthetic` head on the
      image tower.

  Raises:
    UserError: see `describe` and `convert.load_params`.
  """
  config, layout = describe(spec, size)
  if not texts:
    config = dataclasses.replace(config, text=None)
  rules = rules_of(config, layout)
  if not texts:
    head = [n for rule in aesthetic.RULES for (n,) in rule.names()]
    rules += tuple(Rule("", n) for n in (*_TEXT_TENSORS[layout], *head))
  return config, convert.load_params(spec, rules, shapes(config, dtype))
