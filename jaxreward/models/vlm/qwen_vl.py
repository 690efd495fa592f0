"""Complete Qwen2-VL, Qwen2.5-VL and Qwen3-VL (dense) models.

Wang et al. 2024, https://arxiv.org/abs/2409.12191; Bai et al. 2025,
https://arxiv.org/abs/2502.13923 and https://arxiv.org/abs/2511.21631. A vision
tower (`qwen_vision`) turns images and videos into tokens among those of the
text, a language model (`text.qwen`) reads both, and a head, which may be the
token table itself, gives logits of the next token.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from jaxreward.models import convert, fields, hub, lora_read
from jaxreward.models.convert import Rule, below
from jaxreward.models.text import qwen, qwen_layouts
from jaxreward.models.text.qwen import Qwen, QwenText
from jaxreward.models.vision import qwen_vision, qwen_vision_layouts, tower
from jaxreward.models.vision.qwen_vision import Patches, Vision, VisionTower
from jaxreward.types import Array, ArrayLike, Params


@dataclasses.dataclass(frozen=True)
class Model:
  """Geometry of a model.

  Attributes:
    language: of the language model.
    vision: of the vision tower.
    video: id of the placeholder of a video token; images have `language.pad`.
    pace: positions per second of a video; 0 if frames are one position apart,
      whatever the time between them.
  """

  language: Qwen
  vision: Vision
  video: int = 151656
  pace: float = 0


SIZES = {
  name: Model(
    language, qwen_vision.SIZES[name], pace=2.0 if "2.5" in name else 0
  )
  for name, language in qwen.SIZES.items()
}
SHARDING_RULES: tower.Rules = (
  *qwen.BOTH_SHARDING_RULES,
  (r"^head/kernel$", ("fsdp", "tensor")),
)


@flax.struct.dataclass
class Prompts:
  """Rows of text among images, from `prompts.pack`.

  Attributes:
    tokens: int32 [B, L], padded on the right.
    mask: bool [B, L], False for padding.
    places: int32 [B, L, 3], for the rotary positions.
    source: int32 [B, L], index of the image token here, -1 for text; image
      tokens are counted over all images of the batch.
    patches: of the images, None for text alone.
  """

  tokens: ArrayLike
  mask: ArrayLike
  places: ArrayLike
  source: ArrayLike
  patches: Patches | None = None


def images_of(
  model: Model, params: Params, prompts: Prompts, dtype: Any = jnp.float32
) -> qwen.Images | None:
  """The language model's image inputs, None without images."""
  if prompts.patches is None:
    return None
  net = VisionTower(model.vision, dtype)
  outputs: Any = net.apply({"params": params["vision"]}, prompts.patches)
  features, deep = outputs
  if deep is not None:
    deep = deep.reshape(len(deep), -1, deep.shape[-1])
  features = features.reshape(-1, features.shape[-1])
  return qwen.Images(features, prompts.source, deep)


def states(
  model: Model, params: Params, prompts: Prompts, *, dtype: Any = jnp.float32
) -> Float[Array, "B L D"]:
  """Hidden states after the last norm; those of padding are arbitrary.

  Args:
    model: geometry.
    params: {"vision", "text"} and, unless it is the token table, "head".
    prompts: the rows.
    dtype: of the products.
  """
  images = images_of(model, params, prompts, dtype)
  hidden: Any = QwenText(model.language, dtype).apply(
    {"params": params["text"]}, prompts.tokens, prompts.places, images
  )
  return hidden


def layer_states(
  model: Model, params: Params, prompts: Prompts, *, dtype: Any = jnp.float32
) -> tuple[Float[Array, "B L D"], Float[Array, "K B L D"]]:
  """(`states`, the outputs of all layers before that norm)."""
  images = images_of(model, params, prompts, dtype)
  outputs: Any = QwenText(model.language, dtype).apply(
    {"params": params["text"]}, prompts.tokens, prompts.places, images,
    mutable=["intermediates"],
  )  # fmt: skip
  hidden, extras = outputs
  (each,) = extras["intermediates"]["layers"]["states"]
  return hidden, each


def logits(
  params: Params, hidden: Float[Array, "*N D"]
) -> Float[Array, "*N V"]:
  """Logits of the token after each hidden state, in float32."""
  if "head" in params:
    table = params["head"]["kernel"]
  else:
    table = jnp.asarray(params["text"]["token"]).T
  return jnp.matmul(
    hidden,
    jnp.asarray(table, hidden.dtype),
    preferred_element_type=jnp.float32,
  )


def init(key: Key[Array, ""], model: Model) -> Params:
  """Random parameters."""
  text_key, vision_key, head_key = jax.random.split(key, 3)
  c, v = model.language, model.vision
  side = v.patch * v.merge
  tokens = jnp.zeros((1, 2), jnp.int32)
  params = {
    "text": QwenText(c).init(text_key, tokens)["params"],
    "vision": VisionTower(v).init(vision_key, jnp.zeros((1, side, side, 3)))[
      "params"
    ],
  }
  if not c.tied:
    kernel = 0.02 * jax.random.normal(head_key, (c.width, c.vocabulary))
    params["head"] = {"kernel": kernel}
  return params


def shapes(model: Model, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  params = jax.eval_shape(lambda k: init(k, model), jax.random.key(0))
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, params)


def rules_of(model: Model, *, nested: bool) -> tuple[Rule, ...]:
  """Table of public names.

  Args:
    model: geometry.
    nested: whether both towers lie in "model.", as in files of Qwen3-VL and in
      models of transformers 5.
  """
  text = "model.language_model." if nested else "model."
  vision = "model.visual." if nested else "visual."
  head = (
    Rule("", "lm_head.weight")  # a duplicate of the token table
    if model.language.tied
    else Rule("head/kernel", "lm_head.weight", convert.LINEAR)
  )
  return (
    *below(qwen_layouts.layer_rules(model.language, text), "text/", ""),
    *below(
      qwen_vision_layouts.tower_rules(model.vision, vision), "vision/", ""
    ),
    head,
  )


def config_of(record: Mapping[str, Any]) -> Model:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture, an invalid size, or towers of different
      widths.
  """
  language = qwen_layouts.config_of(record, tuple(qwen_layouts.MODELS))
  vision = qwen_vision_layouts.config_of(record)
  if vision.out != language.width:
    raise hub.misfit(
      "config.json: vision_config", "out_hidden_size", vision.out,
      f"{language.width}, the hidden_size of the language model",
    )  # fmt: skip
  pace = record["vision_config"].get("tokens_per_second", 4)
  has_pace = record["model_type"] == "qwen2_5_vl"
  return Model(
    language,
    vision,
    record.get("video_token_id", 151656),
    float(pace) if has_pace else 0,
  )


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Model, Params]:
  """(architecture, parameters) of a public checkpoint.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  record = fields.read(spec)
  with hub.beside(spec):
    model = config_of(record)
  nested = any(
    name.startswith("model.visual.") for name in hub.open_weights(spec)
  )
  rules = rules_of(model, nested=nested)
  return model, convert.load_params(spec, rules, shapes(model, dtype))


def with_adapter(model: Model, params: Params, spec: str) -> Params:
  """Parameters with a PEFT adapter (LoRA) added to them.

  Args:
    model: geometry.
    params: its parameters.
    spec: folder, file or hub id; its names may be those of any transformers.

  Raises:
    UserError: it is not an adapter of this model.
  """
  path = lora_read.file_of(hub.resolve(spec))
  nested = any("language_model" in name for name in hub.open_weights(path))
  rules = rules_of(model, nested=nested)
  return lora_read.added(spec, rules, params, "Qwen-VL")


def save(
  folder: os.PathLike[str] | str,
  model: Model,
  params: Params,
  record: Mapping[str, Any],
  *,
  dtype: str | None = None,
) -> None:
  """Writes a folder that transformers loads.

  Args:
    folder: created if absent.
    model: geometry.
    params: its parameters.
    record: `config.json`, as it was read.
    dtype: of the stored weights; unchanged if None.

  Raises:
    UserError: see `convert.save_params`.
  """
  nested = model.vision.model == "qwen3_vl"
  convert.save_params(
    folder, params, rules_of(model, nested=nested),
    config=record, stem="model", dtype=dtype,
  )  # fmt: skip
