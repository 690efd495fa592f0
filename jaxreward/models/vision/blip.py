"""BLIP: a text tower with cross-attention to an image, and ImageReward's head.

Li et al. 2022, https://arxiv.org/abs/2201.12086; Xu et al. 2023 (ImageReward),
https://arxiv.org/abs/2304.05977. The text tower is a post-norm BERT whose
layers also attend to the image's patches.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.models.convert import Rule, conv, linear, norm
from jaxreward.models.vision import aesthetic, tower
from jaxreward.models.vision.tower import Size
from jaxreward.types import Array, ArrayLike

_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Blip:
  """Geometry of both towers.

  Attributes:
    vision: layers of the image tower.
    text: layers of the text tower.
    patch: side of a patch in pixels.
    image: side of an image in pixels.
    vocabulary: token ids.
    places: maximum tokens of a text.
  """

  vision: Size
  text: Size
  patch: int = 16
  image: int = 224
  vocabulary: int = 30524
  places: int = 512


_HEAD = 64  # features per attention head, in both towers of every size
IMAGE_REWARD = Blip(
  Size(1024, 24, 16, 4096, eps=1e-6), Size(768, 12, 12, 3072, eps=1e-12)
)

SHARDING_RULES: tower.Rules = (
  *tower.sharding_rules("vision/stack"),
  (r"^vision/(class|position|patches/embedding/.*|norm/.*)$", ()),
  (r"^text/(token|position)$", (None, "fsdp")),
  (r"^text/norm/(scale|bias)$", ()),
  (r"^text/layers/(qkv|query|kv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^text/layers/(out|cross|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^text/layers/.*(bias|scale)$", ()),
  (r"^head/", ()),
)


class VisionTower(nn.Module):
  """Normalised images -> class token and patches after the last norm."""

  config: Blip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "B H W 3"]) -> Float[Array, "B N D"]:
    c, s, dtype = self.config, self.config.vision, self.dtype
    x = jnp.asarray(x, dtype)
    x = tower.Patches(s.width, c.patch, True, dtype, name="patches")(x)
    class_token = self.param("class", _NORMAL, (1, 1, s.width))
    place = self.param("position", _NORMAL, (1, x.shape[1] + 1, s.width))
    class_token = jnp.repeat(class_token, len(x), 0).astype(dtype)
    x = jnp.concatenate([class_token, x], 1) + place.astype(dtype)
    x, _ = tower.Stack(s, dtype, name="stack")(x)
    return tower.layer_norm(s.eps, dtype, "norm")(x)


class TextLayer(nn.Module):
  """Self-attention of words, cross-attention to the image, then an MLP."""

  size: Size
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, bias: Array, image_states: Array
  ) -> tuple[Array, None]:
    s, dtype = self.size, self.dtype
    dense = lambda n, name: nn.Dense(n, dtype=dtype, name=name)
    added = lambda h, name: tower.layer_norm(s.eps, dtype, name)(x + h)
    q, k, v = jnp.split(dense(3 * s.width, "qkv")(x), 3, -1)
    h = tower.attend(q, k, v, s.heads, bias)
    x = added(dense(s.width, "out")(h), "norm_1")
    k, v = jnp.split(dense(2 * s.width, "kv")(image_states), 2, -1)
    h = tower.attend(dense(s.width, "query")(x), k, v, s.heads)
    x = added(dense(s.width, "cross")(h), "norm_2")
    h = tower.ACTIVATIONS[s.activation](dense(s.mlp, "up")(x))
    return added(dense(s.width, "down")(h), "norm_3"), None


class TextTower(nn.Module):
  """Token ids and an image's patches -> hidden states."""

  config: Blip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Int[ArrayLike, "B L"],
    mask: Bool[ArrayLike, "B L"],
    image_states: Float[Array, "B N D"],
  ) -> Float[Array, "B L E"]:
    c, s = self.config, self.config.text
    table = self.param("token", _NORMAL, (c.vocabulary, s.width))
    place = self.param("position", _NORMAL, (c.places, s.width))
    x = jnp.take(table, tokens, 0) + place[: tokens.shape[1]]
    x = tower.layer_norm(s.eps, self.dtype, "norm")(x.astype(self.dtype))
    bias = jnp.where(mask, 0.0, -1e9)[:, None, None]
    layers = nn.scan(
      nn.remat(TextLayer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=s.depth,
    )
    return layers(s, self.dtype, name="layers")(x, bias, image_states)[0]


class BlipModel(nn.Module):
  """Text states conditioned on the image."""

  config: Blip
  dtype: Any = jnp.float32

  def setup(self):
    self.vision = VisionTower(self.config, self.dtype)
    self.text = TextTower(self.config, self.dtype)

  def __call__(
    self,
    tokens: Int[ArrayLike, "B L"],
    mask: Bool[ArrayLike, "B L"],
    images: Float[ArrayLike, "B H W 3"],
  ) -> Float[Array, "B L E"]:
    """States [B, L, E] of texts, each with its normalised image."""
    return self.both(tokens, mask, images)[0]

  def both(
    self,
    tokens: Int[ArrayLike, "B L"],
    mask: Bool[ArrayLike, "B L"],
    images: Float[ArrayLike, "B H W 3"],
  ) -> tuple[Float[Array, "B L E"], Float[Array, "B N D"]]:
    """(states of the texts, states of the images)."""
    image_states = self.vision(images)
    return self.text(tokens, mask, image_states), image_states


def _text(depth: int, at: str) -> tuple[Rule, ...]:
  layers, ours = range(depth), "text/layers"
  layer = f"{at}.encoder.layer.{{}}"
  self_attention, cross = f"{layer}.attention", f"{layer}.crossattention"
  names = ("query", "key", "value")
  return (
    Rule("text/token", f"{at}.embeddings.word_embeddings.weight"),
    Rule("text/position", f"{at}.embeddings.position_embeddings.weight"),
    *norm("text/norm", f"{at}.embeddings.LayerNorm"),
    *linear(
      f"{ours}/qkv", tuple(f"{self_attention}.self.{n}" for n in names), layers
    ),
    *linear(f"{ours}/out", f"{self_attention}.output.dense", layers),
    *norm(f"{ours}/norm_1", f"{self_attention}.output.LayerNorm", layers),
    *linear(f"{ours}/query", f"{cross}.self.query", layers),
    *linear(
      f"{ours}/kv", tuple(f"{cross}.self.{n}" for n in names[1:]), layers
    ),
    *linear(f"{ours}/cross", f"{cross}.output.dense", layers),
    *norm(f"{ours}/norm_2", f"{cross}.output.LayerNorm", layers),
    *linear(f"{ours}/up", f"{layer}.intermediate.dense", layers),
    *linear(f"{ours}/down", f"{layer}.output.dense", layers),
    *norm(f"{ours}/norm_3", f"{layer}.output.LayerNorm", layers),
    Rule("", f"{at}.embeddings.position_ids"),
  )


# Parts of BLIP's training that scores do not need.
_TRAINING = tuple(
  Rule("", f"blip.{name}_proj.{part}")
  for name in ("vision", "text")
  for part in ("weight", "bias")
)


def rules_of(config: Blip) -> tuple[Rule, ...]:
  """Table of ImageReward's names, its head included."""
  head = convert.below(aesthetic.RULES, "head/", "mlp.")
  return (*tower_rules(config), *head)


def tower_rules(config: Blip) -> tuple[Rule, ...]:
  """Table of the towers in ImageReward's layout."""
  layers, ours = range(config.vision.depth), "vision/stack/layers"
  vision = "blip.visual_encoder"
  block = f"{vision}.blocks.{{}}"
  return (
    Rule("vision/class", f"{vision}.cls_token"),
    Rule("vision/position", f"{vision}.pos_embed"),
    *conv("vision/patches/embedding", f"{vision}.patch_embed.proj"),
    *norm(f"{ours}/norm_1", f"{block}.norm1", layers),
    *linear(f"{ours}/qkv", f"{block}.attn.qkv", layers),
    *linear(f"{ours}/out", f"{block}.attn.proj", layers),
    *norm(f"{ours}/norm_2", f"{block}.norm2", layers),
    *linear(f"{ours}/up", f"{block}.mlp.fc1", layers),
    *linear(f"{ours}/down", f"{block}.mlp.fc2", layers),
    *norm("vision/norm", f"{vision}.norm"),
    *_text(config.text.depth, "blip.text_encoder"),
    *_TRAINING,
  )


def hf_rules(config: Blip) -> tuple[Rule, ...]:
  """Table of both towers in transformers' BLIP for retrieval."""
  layers, ours = range(config.vision.depth), "vision/stack/layers"
  layer = "vision_model.encoder.layers.{}"
  embeddings = "vision_model.embeddings"
  return (
    Rule("vision/class", f"{embeddings}.class_embedding"),
    Rule("vision/position", f"{embeddings}.position_embedding"),
    *conv("vision/patches/embedding", f"{embeddings}.patch_embedding"),
    *norm(f"{ours}/norm_1", f"{layer}.layer_norm1", layers),
    *linear(f"{ours}/qkv", f"{layer}.self_attn.qkv", layers),
    *linear(f"{ours}/out", f"{layer}.self_attn.projection", layers),
    *norm(f"{ours}/norm_2", f"{layer}.layer_norm2", layers),
    *linear(f"{ours}/up", f"{layer}.mlp.fc1", layers),
    *linear(f"{ours}/down", f"{layer}.mlp.fc2", layers),
    *norm("vision/norm", "vision_model.post_layernorm"),
    *_text(config.text.depth, "text_encoder"),
  )


def shapes(config: Blip, dtype: str = "float32", *, head: bool = True) -> Any:
  """The parameters as `jax.ShapeDtypeStruct`, optionally with the head."""
  side = config.image
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, 8), bool)
  net = BlipModel(config)
  variables = jax.eval_shape(net.init, jax.random.key(0), tokens, mask, image)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  params = jax.tree.map(as_dtype, dict(variables["params"]))
  return params | (
    {"head": aesthetic.shapes(config.text.width)} if head else {}
  )


def config_of(spec: os.PathLike[str] | str) -> Blip:
  """Geometry of weights in ImageReward's layout, from their shapes.

  Raises:
    UserError: unreadable weights, tensors not of a BLIP, or a width that is not
      a multiple of 64, the head width.
  """
  tensors = hub.open_weights(spec)

  def shape(name: str, rank: int) -> tuple[int, ...]:
    of = f"{spec}: no ImageReward"
    return hub.shape_of(tensors, f"blip.{name}", rank, of=of)

  def size(width: int, name: str, mlp: str, eps: float) -> Size:
    if width % _HEAD:
      raise UserError(
        f"{spec}: a tower of width {width} has no whole heads of {_HEAD}"
      )
    hidden, _ = shape(mlp.format(0), 2)
    depth = hub.count_layers(tensors, f"blip.{name}")
    return Size(width, depth, width // _HEAD, hidden, eps=eps)

  block = "visual_encoder.blocks.{}"
  layer = "text_encoder.encoder.layer.{}"
  width, _, patch, _ = shape("visual_encoder.patch_embed.proj.weight", 4)
  side = math.isqrt(shape("visual_encoder.pos_embed", 3)[1] - 1)
  vocabulary, features = shape(
    "text_encoder.embeddings.word_embeddings.weight", 2
  )
  places, _ = shape("text_encoder.embeddings.position_embeddings.weight", 2)
  return Blip(
    size(width, f"{block}.norm1.weight", f"{block}.mlp.fc1.weight", 1e-6),
    size(
      features, f"{layer}.attention.output.dense.weight",
      f"{layer}.intermediate.dense.weight", 1e-12,
    ),
    patch, side * patch, vocabulary, places,
  )  # fmt: skip


def load(
  spec: os.PathLike[str] | str, config: Blip, *, dtype: str = "float32"
) -> Any:
  """Parameters of ImageReward; raises as `convert.load_params`."""
  return convert.load_params(spec, rules_of(config), shapes(config, dtype))
