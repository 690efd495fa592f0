"""The text tower of Qwen2.5-VL, with which Qwen-Image reads prompts.

Bai et al. 2025, https://arxiv.org/abs/2502.13923; Wu et al. 2025 (Qwen-Image),
https://arxiv.org/abs/2508.02324. A causal transformer with rotary positions,
grouped-query attention and a gated MLP. Positions have three axes, time, row
and column: equal for text, a grid for tokens of an image (`qwen_vision`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Rule, linear, norm
from jaxreward.models.text import qwen_prompts
from jaxreward.models.vision import qwen_vision, tower
from jaxreward.models.vision.qwen_vision import Vision
from jaxreward.types import Array, ArrayLike, Params


@dataclasses.dataclass(frozen=True)
class Qwen:
  """Geometry of the tower.

  Attributes:
    width: features per token.
    depth: layers.
    heads: attention heads of the queries; their width is width / heads.
    groups: heads of keys and values, each for heads / groups queries.
    mlp: hidden features of the gated MLP.
    vocabulary: token ids.
    theta: base of the rotary positions.
    eps: of the norms.
    sections: features of half a head that each position axis rotates.
    pad: id of the placeholder of an image token.
  """

  width: int
  depth: int
  heads: int
  groups: int
  mlp: int
  vocabulary: int = 152064
  theta: float = 1e6
  eps: float = 1e-6
  sections: tuple[int, ...] = (16, 24, 24)
  pad: int = 151655


SIZES = {
  "qwen2.5_vl_3b": Qwen(2048, 36, 16, 2, 11008, 151936),
  "qwen2.5_vl_7b": Qwen(3584, 28, 28, 4, 18944),
}

SHARDING_RULES: tower.Rules = (
  (r"^token$", (None, "fsdp")),
  (r"^layers/(query|kv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^layers/(out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^layers/(query|kv)/bias$", ()),
  (r"^(layers/norm_[12]|norm)/scale$", ()),
)
EDIT_SHARDING_RULES: tower.Rules = (
  *((p.replace("^", "^text/", 1), axes) for p, axes in SHARDING_RULES),
  *(
    (p.replace("^", "^vision/", 1), axes)
    for p, axes in qwen_vision.SHARDING_RULES
  ),
)


class Layer(nn.Module):
  """Pre-norm attention and gated MLP with residuals."""

  config: Qwen
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, bias: Array, angles: Array
  ) -> tuple[Array, None]:
    c, dtype = self.config, self.dtype
    plain = lambda n, name: nn.Dense(n, use_bias=False, dtype=dtype, name=name)
    rms_norm = lambda name: nn.RMSNorm(epsilon=c.eps, dtype=dtype, name=name)
    head = c.width // c.heads
    h = rms_norm("norm_1")(x)
    q = nn.Dense(c.width, dtype=dtype, name="query")(h)
    kv = nn.Dense(2 * c.groups * head, dtype=dtype, name="kv")(h)
    k, v = jnp.split(kv, 2, -1)
    q, k = tower.rotate(q, c.heads, angles), tower.rotate(k, c.groups, angles)
    k, v = (_repeated(y, c.groups, c.heads) for y in (k, v))
    x = x + plain(c.width, "out")(tower.attend(q, k, v, c.heads, bias))
    gate, h = jnp.split(plain(2 * c.mlp, "up")(rms_norm("norm_2")(x)), 2, -1)
    return x + plain(c.width, "down")(jax.nn.silu(gate) * h), None


def _repeated(x: Array, groups: int, heads: int) -> Array:
  """Repeats each head of a group for the query heads that share it."""
  grouped = x.reshape(*x.shape[:2], groups, -1)
  return jnp.repeat(grouped, heads // groups, 2).reshape(*x.shape[:2], -1)


class QwenText(nn.Module):
  """Token ids, padded on the right, -> hidden states after the last norm."""

  config: Qwen
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Int[ArrayLike, "B L"],
    image_tokens: Sequence[Float[ArrayLike, "B _ D"]] = (),
    starts: Sequence[int] = (),
    grids: Sequence[tuple[int, int]] = (),
  ) -> Float[Array, "B L D"]:
    """Hidden states.

    Args:
      tokens: ids.
      image_tokens: tokens of each image, which replace as many ids.
      starts: of the images, in order, the same in every row.
      grids: rows and columns of each image's tokens.
    """
    c, length = self.config, tokens.shape[1]
    table = self.param(
      "token", nn.initializers.normal(0.02), (c.vocabulary, c.width)
    )
    frequency = c.theta ** -jnp.arange(0, 1, 2 * c.heads / c.width)
    angles = jnp.arange(length)[:, None] * frequency
    if image_tokens:
      axis = np.repeat(np.arange(3), c.sections)
      angles = rope_places(length, starts, grids)[:, axis] * frequency
    angles = jnp.tile(angles, 2)[None]
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=c.depth,
    )
    x = jnp.take(table, tokens, 0).astype(self.dtype)
    for start, features in zip(starts, image_tokens, strict=True):
      features = jnp.asarray(features, self.dtype)
      x = x.at[:, start : start + features.shape[1]].set(features)
    bias = tower.causal_bias(length)
    x, _ = layers(c, self.dtype, name="layers")(x, bias, angles)
    return nn.RMSNorm(epsilon=c.eps, dtype=self.dtype, name="norm")(x)


def rope_places(
  length: int, starts: Sequence[int], grids: Sequence[tuple[int, int]]
) -> Int[np.ndarray, "{length} 3"]:
  """(time, row, column) of text and image tokens.

  An image has one time; text after it continues beyond its longer side.

  Args:
    length: number of tokens.
    starts: of the images, in order; empty for text alone.
    grids: rows and columns of each image's tokens.
  """
  parts: list[np.ndarray] = []
  token = place = 0  # of the next

  def words(end: int) -> None:
    count = end - token
    parts.append(np.repeat(np.arange(place, place + count)[:, None], 3, 1))

  for start, grid in zip(starts, grids, strict=True):
    words(start)
    place += start - token
    parts.append(np.indices((1, *grid)).reshape(3, -1).T + place)
    token, place = start + math.prod(grid), place + max(grid)
  words(length)
  return np.concatenate(parts)


def encode_qwen_image(
  config: Qwen,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  *,
  dtype: Any = jnp.float32,
) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
  """(states, mask) for Qwen-Image; states are 0 where the mask is False.

  Args:
    config: geometry of the tower.
    params: of it.
    tokens: from `qwen_prompts.tokenize`.
    mask: from the same.
    dtype: of the products.
  """
  states: Any = QwenText(config, dtype).apply({"params": params}, tokens)
  return _after(states, mask, qwen_prompts.TEMPLATE_TOKENS)


def encode_qwen_image_edit(
  config: Qwen,
  vision: Vision,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  image_batches: Sequence[Float[ArrayLike, "B _ _ 3"]],
  *,
  starts: Sequence[int],
  dtype: Any = jnp.float32,
) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
  """(states, mask) of images and text for Qwen-Image-Edit.

  Args:
    config: geometry of the text tower.
    vision: geometry of the vision tower.
    params: {"text", "vision"}.
    tokens: from `qwen_prompts.tokenize_edit`.
    mask: from the same.
    image_batches: the images of every row, each of its own size, normalised by
      `qwen_vision.ImageProcessor`; encoded one by one.
    starts: from `qwen_prompts.tokenize_edit`, one per image.
    dtype: of the products.
  """
  net = qwen_vision.VisionTower(vision, dtype)

  def encode_image(image: Array) -> Array:
    features: Any = net.apply({"params": params["vision"]}, image[None])
    return features[0]

  image_tokens = [
    jax.lax.map(encode_image, jnp.asarray(batch)) for batch in image_batches
  ]
  grids = [vision.grid(*batch.shape[1:3]) for batch in image_batches]
  states: Any = QwenText(config, dtype).apply(
    {"params": params["text"]}, tokens, image_tokens, tuple(starts), grids
  )
  return _after(states, mask, qwen_prompts.EDIT_TEMPLATE_TOKENS)


def _after(states: Array, mask: ArrayLike, drop: int) -> tuple[Array, Array]:
  key_mask = jnp.asarray(mask)[:, drop:]
  return jnp.where(key_mask[..., None], states[:, drop:], 0.0), key_mask


def rules_of(config: Qwen, prefix: str = "model.") -> tuple[Rule, ...]:
  """Table of public names; new files say "model.language_model."."""
  layers, at = range(config.depth), f"{prefix}layers.{{}}"
  attention = f"{at}.self_attn"
  return (
    Rule("token", f"{prefix}embed_tokens.weight"),
    Rule("", "lm_head.weight"),
    Rule("", "visual.*"),
    Rule("", "model.visual.*"),
    *norm("layers/norm_1", f"{at}.input_layernorm", layers, bias=False),
    *linear("layers/query", f"{attention}.q_proj", layers),
    *linear("layers/kv", tuple(f"{attention}.{x}_proj" for x in "kv"), layers),
    *linear("layers/out", f"{attention}.o_proj", layers, bias=False),
    *norm(
      "layers/norm_2", f"{at}.post_attention_layernorm", layers, bias=False
    ),
    *linear(
      "layers/up",
      (f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
      layers,
      bias=False,
    ),
    *linear("layers/down", f"{at}.mlp.down_proj", layers, bias=False),
    *norm("norm", f"{prefix}norm", bias=False),
  )


_FIELDS = fields.Fields(
  read=(
    "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "vocab_size", "rope_theta",
    "rope_parameters", "rope_scaling", "rms_norm_eps", "image_token_id",
    "text_config", "vision_config", "layer_types",
  ),
  fixed={"hidden_act": ("silu",), "use_sliding_window": (False,)},
  unread=(
    *fields.TRANSFORMERS, "max_position_embeddings", "max_window_layers",
    "sliding_window",  # of layers that use it
    "video_token_id", "vision_end_token_id", "vision_start_token_id",
    "vision_token_id",
  ),
)  # fmt: skip
_ROPE_FIELDS = fields.Fields(
  read=("mrope_section", "rope_theta"),
  fixed={"rope_type": ("default", "mrope"), "type": ("default", "mrope")},
)


def config_of(record: Mapping[str, Any]) -> Qwen:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture, or an invalid size.
  """
  if record.get("model_type") != "qwen2_5_vl":
    raise UserError(
      f'config.json describes a "{record.get("model_type")}", not Qwen2.5-VL'
    )
  of = "config.json"
  part = hub.field(record, "text_config", dict, of=of, default={})
  text: Any = {**record, **part}
  fields.check(text, _FIELDS, of=of)
  count = functools.partial(hub.field, text, kind=int, of=of)
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  fields.check(rope, _ROPE_FIELDS, of=f"{of}: rope_parameters")
  if set(text.get("layer_types") or ()) - {"full_attention"}:
    raise hub.misfit(
      of, "layer_types", text["layer_types"], "full_attention in every layer"
    )
  return Qwen(
    count("hidden_size"),
    count("num_hidden_layers"),
    count("num_attention_heads"),
    count("num_key_value_heads"),
    count("intermediate_size"),
    count("vocab_size"),
    float(text.get("rope_theta") or rope.get("rope_theta", 1e6)),
    text.get("rms_norm_eps", 1e-5),
    tuple(rope.get("mrope_section", (16, 24, 24))),
    record.get("image_token_id", 151655),
  )


def shapes(config: Qwen, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  variables = jax.eval_shape(QwenText(config).init, jax.random.key(0), tokens)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Qwen, Params]:
  """(architecture, parameters) of a public checkpoint's text tower.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = config_of(fields.read(spec))
  nested = "model.language_model.norm.weight" in hub.open_weights(spec)
  rules = rules_of(config, "model.language_model." if nested else "model.")
  return config, convert.load_params(spec, rules, shapes(config, dtype))
