"""SigLIP and SigLIP 2: pairs of towers trained with a sigmoid loss.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343; Tschannen et al. 2025,
https://arxiv.org/abs/2502.14786. The checkpoints of one resolution, which
transformers calls "siglip" for both generations.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.models import clip_layouts, convert, hub, tower
from jaxreward.models.convert import LINEAR, Rule, conv, linear, norm
from jaxreward.models.tower import Size
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
    image: side of a picture in pixels.
  """

  text: Size
  vision: Size
  vocabulary: int = 32000
  length: int = 64
  patch: int = 16
  image: int = 224


def _same(width, depth, heads, mlp, vocabulary, patch, image) -> Siglip:
  size = Size(width, depth, heads, mlp, "gelu_tanh", 1e-6)
  return Siglip(size, size, vocabulary, 64, patch, image)


SIZES = {
  "siglip_base_16_224": _same(768, 12, 12, 3072, 32000, 16, 224),
  "siglip_so400m_14_384": _same(1152, 27, 16, 4304, 32000, 14, 384),
  "siglip2_base_16_224": _same(768, 12, 12, 3072, 256000, 16, 224),
  "siglip2_so400m_14_384": _same(1152, 27, 16, 4304, 256000, 14, 384),
}

SHARDING_RULES: tower.Rules = (
  *tower.sharding_rules("(text|vision)/stack"),
  (r"^text/(token|position)$", (None, "fsdp")),
  (r"^vision/(position|probe|patches/embedding/(kernel|bias))$", ()),
  (r"^text/head/kernel$", ("fsdp", "tensor")),
  (r"^vision/(pool_qkv|pool_up)/kernel$", ("fsdp", "tensor")),
  (r"^vision/(pool_out|pool_down)/kernel$", ("tensor", "fsdp")),
  (r"^(text|vision)/[^/]*/(bias|scale)$", ()),
  (r"^logit_(scale|bias)$", ()),
)


class TextTower(nn.Module):
  """Token ids, padded to the full length, -> features of the last place."""

  config: Siglip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[ArrayLike, "B L"]) -> Float[Array, "B E"]:
    c, s = self.config, self.config.text
    table = self.param("token", _NORMAL, (c.vocabulary, s.width))
    place = self.param("position", _NORMAL, (c.length, s.width))
    x = jnp.take(table, tokens, 0) + place[: tokens.shape[1]]
    x, _ = tower.Stack(s, self.dtype, name="stack")(x.astype(self.dtype))
    x = tower.layer_norm(s.eps, self.dtype, "norm")(x[:, -1])
    return nn.Dense(c.vision.width, dtype=self.dtype, name="head")(x)


class VisionTower(nn.Module):
  """Normalised pictures -> features gathered by an attention probe."""

  config: Siglip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "B H W 3"]) -> Float[Array, "B E"]:
    c, s, dtype = self.config, self.config.vision, self.dtype
    x = jnp.asarray(x, dtype)
    x = tower.Patches(s.width, c.patch, True, dtype, name="patches")(x)
    place = self.param("position", _NORMAL, (x.shape[1], s.width))
    x, _ = tower.Stack(s, dtype, name="stack")(x + place.astype(dtype))
    x = tower.layer_norm(s.eps, dtype, "norm")(x)
    probe = self.param("probe", _NORMAL, (1, 1, s.width)).astype(dtype)
    both = jnp.concatenate([jnp.repeat(probe, len(x), 0), x], 1)
    both = nn.Dense(3 * s.width, dtype=dtype, name="pool_qkv")(both)
    q, k, v = jnp.split(both, 3, -1)
    h = tower.attend(q[:, :1], k[:, 1:], v[:, 1:], s.heads)[:, 0]
    h = nn.Dense(s.width, dtype=dtype, name="pool_out")(h)
    y = tower.layer_norm(s.eps, dtype, "pool_norm")(h)
    y = nn.Dense(s.mlp, dtype=dtype, name="pool_up")(y)
    y = tower.ACTIVATIONS[s.activation](y)
    return h + nn.Dense(s.width, dtype=dtype, name="pool_down")(y)


class SiglipModel(nn.Module):
  """Both towers and the line that turns cosines into logits."""

  config: Siglip
  dtype: Any = jnp.float32

  def setup(self):
    self.text = TextTower(self.config, self.dtype)
    self.vision = VisionTower(self.config, self.dtype)
    self.logit_scale = self.param("logit_scale", _NORMAL, (1,))
    self.logit_bias = self.param("logit_bias", _NORMAL, (1,))

  def __call__(
    self, tokens: Int[ArrayLike, "P L"], images: Float[ArrayLike, "B H W 3"]
  ) -> tuple[Float[Array, "P E"], Float[Array, "B E"]]:
    """(text features, image features), neither of unit length."""
    return self.text(tokens), self.vision(images)

  def read(self, tokens: Int[ArrayLike, "B L"]) -> Float[Array, "B E"]:
    """See `TextTower`."""
    return self.text(tokens)

  def look(self, images: Float[ArrayLike, "B H W 3"]) -> Float[Array, "B E"]:
    """See `VisionTower`."""
    return self.vision(images)


def rules_of(config: Siglip) -> tuple[Rule, ...]:
  """Table of public names, as transformers has them."""
  text, vision, head = "text_model", "vision_model", "vision_model.head"
  return (
    Rule("logit_scale", "logit_scale"),
    Rule("logit_bias", "logit_bias"),
    Rule("text/token", f"{text}.embeddings.token_embedding.weight"),
    Rule("text/position", f"{text}.embeddings.position_embedding.weight"),
    *clip_layouts.hf_layers("text/stack/layers", f"{text}.", config.text.depth),
    *norm("text/norm", f"{text}.final_layer_norm"),
    *linear("text/head", f"{text}.head"),
    *conv("vision/patches/embedding", f"{vision}.embeddings.patch_embedding"),
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
    Rule("", "*.position_ids"),
  )


_DEFAULTS = {
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
  "intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": 1e-6,
}  # fmt: skip


def config_of(record: Mapping[str, Any]) -> Siglip:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture, or towers that do not meet.
  """
  if record.get("model_type") != "siglip":
    raise UserError(
      f'config.json describes a "{record.get("model_type")}", not a SigLIP of'
      " one resolution"
    )
  text, vision = record.get("text_config", {}), record.get("vision_config", {})
  found = Siglip(
    clip_layouts.size_of(text, _DEFAULTS),
    clip_layouts.size_of(vision, _DEFAULTS),
    text.get("vocab_size", 32000),
    text.get("max_position_embeddings", 64),
    vision.get("patch_size", 16),
    vision.get("image_size", 224),
  )
  shared = text.get("projection_size", found.text.width)
  if shared != found.vision.width:
    raise UserError(
      f"config.json: text features of {shared} and image features of"
      f" {found.vision.width} do not meet"
    )
  return found


def shapes(config: Siglip, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  net = SiglipModel(config)
  picture = jax.ShapeDtypeStruct(
    (1, config.image, config.image, 3), jnp.float32
  )
  tokens = jax.ShapeDtypeStruct((1, config.length), jnp.int32)
  made = jax.eval_shape(net.init, jax.random.key(0), tokens, picture)
  cast = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(cast, made["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Siglip, Any]:
  """(architecture, parameters) of a public checkpoint.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = config_of(hub.read_config(spec))
  like = shapes(config, dtype)
  return config, convert.load_params(spec, rules_of(config), like)
