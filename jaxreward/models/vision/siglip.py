"""SigLIP and SigLIP 2: pairs of towers trained with a sigmoid loss.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343; Tschannen et al. 2025,
https://arxiv.org/abs/2502.14786. The checkpoints of one resolution, which
transformers calls "siglip" for both generations, and NaFlex, which it calls
"siglip2": images of any shape as patches, padded to a fixed number, with the
position table resized to each image's grid.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import LINEAR, Rule, conv, linear, norm
from jaxreward.models.vision import clip_layouts, tower
from jaxreward.models.vision.tower import Size
from jaxreward.types import Array, ArrayLike

_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Siglip:
  """Geometry of both towers.

  Attributes:
    text: its layers.
    vision: its layers; their width is that of the shared space.
    vocabulary: token ids.
    length: positions; texts are always padded to them.
    patch: side of a patch in pixels.
    image: side of an image in pixels; for NaFlex, of an image whose grid is as
      large as the position table.
    flexible: NaFlex: images are `Patches` of any grid.
  """

  text: Size
  vision: Size
  vocabulary: int = 32000
  length: int = 64
  patch: int = 16
  image: int = 224
  flexible: bool = False


def _same(
  width, depth, heads, mlp, vocabulary, patch, image, flexible=False
) -> Siglip:
  size = Size(width, depth, heads, mlp, "gelu_tanh", 1e-6)
  return Siglip(size, size, vocabulary, 64, patch, image, flexible)


SIZES = {
  "siglip_base_16_224": _same(768, 12, 12, 3072, 32000, 16, 224),
  "siglip_so400m_14_384": _same(1152, 27, 16, 4304, 32000, 14, 384),
  "siglip2_base_16_224": _same(768, 12, 12, 3072, 256000, 16, 224),
  "siglip2_so400m_14_384": _same(1152, 27, 16, 4304, 256000, 14, 384),
  "siglip2_base_16_naflex": _same(768, 12, 12, 3072, 256000, 16, 256, True),
  "siglip2_so400m_16_naflex": _same(1152, 27, 16, 4304, 256000, 16, 256, True),
}


class Patches(NamedTuple):
  """Images of any shape as NaFlex takes them, padded to N patches.

  Attributes:
    pixels: normalised, [B, N, 3 * patch**2], row by row of the grid and each
      row by row of its pixels.
    places: [B or 1, N, K], the matrix that resizes the table of K positions to
      the grid.
    mask: [B or 1, N], False for padding.
  """

  pixels: Float[ArrayLike, "B N F"]
  places: Float[ArrayLike, "#B N K"]
  mask: Bool[ArrayLike, "#B N"]


def size_within(
  height: int, width: int, patch: int, most: int
) -> tuple[int, int]:
  """The largest (height, width) in whole patches, within a number of patches.

  Both sides are scaled by one factor and rounded up to patches, as in the
  published preprocessing: the factor is bisected to 1e-5.
  """
  count = lambda side, factor: max(math.ceil(side * factor / patch), 1)
  low, high = 1e-6, 100.0
  while high - low >= 1e-5:
    middle = (low + high) / 2
    if count(height, middle) * count(width, middle) <= most:
      low = middle
    else:
      high = middle
  return count(height, low) * patch, count(width, low) * patch


def resizing(many: int, few: int) -> Float[np.ndarray, "{many} {few}"]:
  """Rows that resize `few` values to `many`: bilinear and antialiased."""
  reach = max(few / many, 1.0)
  centre = (np.arange(many) + 0.5) * few / many
  gap = np.abs(np.arange(few) + 0.5 - centre[:, None]) / reach
  weight = np.maximum(1 - gap, 0)
  return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def cut(
  images: Float[ArrayLike, "B H W 3"], config: Siglip, most: int
) -> Patches:
  """Normalised images whose sides are whole patches, padded to `most`."""
  x, p = jnp.asarray(images), config.patch
  b, grid = x.shape[0], (x.shape[1] // p, x.shape[2] // p)
  x = x.reshape(b, grid[0], p, grid[1], p, 3).swapaxes(2, 3)
  count, side = grid[0] * grid[1], config.image // p
  pad = most - count
  down, across = resizing(grid[0], side), resizing(grid[1], side)
  places = np.einsum("hi,wj->hwij", down, across).reshape(count, side**2)
  return Patches(
    jnp.pad(x.reshape(b, count, -1), ((0, 0), (0, pad), (0, 0))),
    np.pad(places, ((0, pad), (0, 0)))[None],
    (np.arange(most) < count)[None],
  )


SHARDING_RULES: tower.Rules = (
  *tower.sharding_rules("(text|vision)/stack"),
  (r"^text/(token|position)$", (None, "fsdp")),
  (r"^vision/(position|probe|patches/(kernel|embedding/.*))$", ()),
  (r"^text/head/kernel$", ("fsdp", "tensor")),
  (r"^vision/(pool_qkv|pool_up)/kernel$", ("fsdp", "tensor")),
  (r"^vision/(pool_out|pool_down)/kernel$", ("tensor", "fsdp")),
  (r"^(text|vision)/[^/]*/(bias|scale)$", ()),
  (r"^logit_(scale|bias)$", ()),
)


class TextTower(nn.Module):
  """Token ids, padded to the full length, -> features of the last position.

  Also returns the states of all positions, [B, L, D].
  """

  config: Siglip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Int[ArrayLike, "B L"]
  ) -> tuple[Float[Array, "B E"], Float[Array, "B L D"]]:
    c, s = self.config, self.config.text
    table = self.param("token", _NORMAL, (c.vocabulary, s.width))
    place = self.param("position", _NORMAL, (c.length, s.width))
    x = jnp.take(table, tokens, 0) + place[: tokens.shape[1]]
    x, _ = tower.Stack(s, self.dtype, name="stack")(x.astype(self.dtype))
    x = tower.layer_norm(s.eps, self.dtype, "norm")(x)
    head = nn.Dense(c.vision.width, dtype=self.dtype, name="head")
    return head(x[:, -1]), x


class VisionTower(nn.Module):
  """Normalised images -> features pooled by an attention probe, and states.

  The states are those of all patches, [B, N, D].
  """

  config: Siglip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[ArrayLike, "B H W 3"] | Patches
  ) -> tuple[Float[Array, "B E"], Float[Array, "B N D"]]:
    s, dtype = self.config.vision, self.dtype
    x, bias = self._flexible(x) if isinstance(x, Patches) else self._square(x)
    x, _ = tower.Stack(s, dtype, name="stack")(x, bias)
    x = tower.layer_norm(s.eps, dtype, "norm")(x)
    probe = self.param("probe", _NORMAL, (1, 1, s.width)).astype(dtype)
    tokens = jnp.concatenate([jnp.repeat(probe, len(x), 0), x], 1)
    tokens = nn.Dense(3 * s.width, dtype=dtype, name="pool_qkv")(tokens)
    q, k, v = jnp.split(tokens, 3, -1)
    h = tower.attend(q[:, :1], k[:, 1:], v[:, 1:], s.heads, bias)[:, 0]
    h = nn.Dense(s.width, dtype=dtype, name="pool_out")(h)
    y = tower.layer_norm(s.eps, dtype, "pool_norm")(h)
    y = nn.Dense(s.mlp, dtype=dtype, name="pool_up")(y)
    y = tower.ACTIVATIONS[s.activation](y)
    return h + nn.Dense(s.width, dtype=dtype, name="pool_down")(y), x

  def _square(self, x: ArrayLike) -> tuple[Array, None]:
    c, width, dtype = self.config, self.config.vision.width, self.dtype
    x = jnp.asarray(x, dtype)
    x = tower.Patches(width, c.patch, True, dtype, name="patches")(x)
    place = self.param("position", _NORMAL, (x.shape[1], width))
    return x + place.astype(dtype), None

  def _flexible(self, x: Patches) -> tuple[Array, Array]:
    """(tokens, the bias that masks padding)."""
    width, dtype = self.config.vision.width, self.dtype
    y = nn.Dense(width, dtype=dtype, name="patches")(
      jnp.asarray(x.pixels, dtype)
    )
    table = self.param("position", _NORMAL, (x.places.shape[-1], width))
    place = jnp.einsum("bnk,kd->bnd", x.places, table.astype(jnp.float32))
    bias = jnp.where(x.mask, 0.0, -jnp.inf)[:, None, None]
    return y + place.astype(dtype), bias


class SiglipModel(nn.Module):
  """Both towers, and the scale and bias that turn cosines into logits."""

  config: Siglip
  dtype: Any = jnp.float32

  def setup(self):
    self.text = TextTower(self.config, self.dtype)
    self.vision = VisionTower(self.config, self.dtype)
    self.logit_scale = self.param("logit_scale", _NORMAL, (1,))
    self.logit_bias = self.param("logit_bias", _NORMAL, (1,))

  def __call__(
    self,
    tokens: Int[ArrayLike, "P L"],
    images: Float[ArrayLike, "B H W 3"] | Patches,
  ) -> tuple[Float[Array, "P E"], Float[Array, "B E"]]:
    """(text features, image features), neither of unit length."""
    return self.text(tokens)[0], self.vision(images)[0]

  def encode_text(self, tokens: Int[ArrayLike, "B L"]) -> Float[Array, "B E"]:
    """See `TextTower`."""
    return self.text(tokens)[0]

  def encode_image(
    self, images: Float[ArrayLike, "B H W 3"] | Patches
  ) -> Float[Array, "B E"]:
    """See `VisionTower`."""
    return self.vision(images)[0]

  def text_states(
    self, tokens: Int[ArrayLike, "B L"]
  ) -> tuple[Float[Array, "B E"], Float[Array, "B L D"]]:
    """See `TextTower`."""
    return self.text(tokens)

  def image_states(
    self, images: Float[ArrayLike, "B H W 3"] | Patches
  ) -> tuple[Float[Array, "B E"], Float[Array, "B N D"]]:
    """See `VisionTower`."""
    return self.vision(images)


def rules_of(config: Siglip) -> tuple[Rule, ...]:
  """Table of public names, as transformers has them."""
  text, vision, head = "text_model", "vision_model", "vision_model.head"
  embedding = f"{vision}.embeddings.patch_embedding"
  return (
    Rule("logit_scale", "logit_scale"),
    Rule("logit_bias", "logit_bias"),
    Rule("text/token", f"{text}.embeddings.token_embedding.weight"),
    Rule("text/position", f"{text}.embeddings.position_embedding.weight"),
    *clip_layouts.hf_layers("text/stack/layers", f"{text}.", config.text.depth),
    *norm("text/norm", f"{text}.final_layer_norm"),
    *linear("text/head", f"{text}.head"),
    *(
      linear("vision/patches", embedding)
      if config.flexible
      else conv("vision/patches/embedding", embedding)
    ),
    Rule("vision/position", f"{vision}.embeddings.position_embedding.weight"),
    *clip_layouts.hf_layers(
      "vision/stack/layers", f"{vision}.", config.vision.depth
    ),
    *norm("vision/norm", f"{vision}.post_layernorm"),
    Rule("vision/probe", f"{head}.probe"),
    Rule("vision/pool_qkv/kernel", f"{head}.attention.in_proj_weight", LINEAR),
    Rule("vision/pool_qkv/bias", f"{head}.attention.in_proj_bias"),
    *linear("vision/pool_out", f"{head}.attention.out_proj"),
    *norm("vision/pool_norm", f"{head}.layernorm"),
    *linear("vision/pool_up", f"{head}.mlp.fc1"),
    *linear("vision/pool_down", f"{head}.mlp.fc2"),
    Rule("", f"{text}.embeddings.position_ids"),
    Rule("", f"{vision}.embeddings.position_ids"),
  )


_DEFAULTS = {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
  "intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": 1e-6,
}  # fmt: skip


_TEXT_FIELDS = dataclasses.replace(
  clip_layouts.TEXT_FIELDS,
  read=(*clip_layouts.TEXT_FIELDS.read, "projection_size"),
)
_VISION_FIELDS = dataclasses.replace(
  clip_layouts.VISION_FIELDS,
  read=(*clip_layouts.VISION_FIELDS.read, "num_patches", "vision_use_head"),
)


def config_of(record: Mapping[str, Any]) -> Siglip:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture, towers of different widths, no probe, or a
      position table that is not square.
  """
  kind = record.get("model_type")
  if kind not in ("siglip", "siglip2"):
    raise UserError(f'config.json describes a "{kind}", not a SigLIP')
  field = functools.partial(hub.field, of="config.json")
  text, vision = (
    field(record, name, dict, default={})
    for name in ("text_config", "vision_config")
  )
  fields.check(record, clip_layouts.BOTH_FIELDS, of="config.json")
  for part, known, name in (
    (text, _TEXT_FIELDS, "text_config"),
    (vision, _VISION_FIELDS, "vision_config"),
  ):
    fields.check(part, known, of=f"config.json: {name}")
  patch = field(vision, "patch_size", int, default=16)
  image = field(vision, "image_size", int, default=224)
  if kind == "siglip2":
    count = field(vision, "num_patches", int, default=256)
    image = math.isqrt(count) * patch
    if math.isqrt(count) ** 2 != count:
      raise UserError(f"config.json: num_patches={count} is no square number")
  if not vision.get("vision_use_head", True):
    raise UserError(
      "config.json: vision_use_head=false: the image tower has no probe, and so"
      " no features of whole pictures"
    )
  config = Siglip(
    clip_layouts.size_of(text, _DEFAULTS),
    clip_layouts.size_of(vision, _DEFAULTS),
    field(text, "vocab_size", int, default=32000),
    field(text, "max_position_embeddings", int, default=64),
    patch,
    image,
    kind == "siglip2",
  )
  projection = text.get("projection_size", config.text.width)
  if projection != config.vision.width:
    raise UserError(
      f"config.json: text features of {projection} and image features of"
      f" {config.vision.width} do not meet"
    )
  return config


def shapes(config: Siglip, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  net = SiglipModel(config)
  image: Any = jax.ShapeDtypeStruct(
    (1, config.image, config.image, 3), jnp.float32
  )
  if config.flexible:
    most = (config.image // config.patch) ** 2
    image = jax.eval_shape(lambda x: cut(x, config, most), image)
  tokens = jax.ShapeDtypeStruct((1, config.length), jnp.int32)
  variables = jax.eval_shape(net.init, jax.random.key(0), tokens, image)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def describe(spec: os.PathLike[str] | str) -> Siglip:
  """Geometry of a public checkpoint."""
  record = fields.read(spec)
  with hub.beside(spec):
    return config_of(record)


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Siglip, Any]:
  """(architecture, parameters) of a public checkpoint.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = describe(spec)
  like = shapes(config, dtype)
  return config, convert.load_params(spec, rules_of(config), like)
