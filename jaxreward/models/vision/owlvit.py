"""OWL-ViT: open-vocabulary object detection.

Minderer et al. 2022, https://arxiv.org/abs/2205.06230. A CLIP in which every
patch predicts one box, and logits for any number of texts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Rule, linear, norm
from jaxreward.models.vision import clip, clip_layouts, tower
from jaxreward.models.vision.clip import Clip, Text, Vision
from jaxreward.models.vision.tower import Size
from jaxreward.types import Array, ArrayLike

SIZES = {
  "owlvit_base_32": Clip(
    Text(Size(512, 12, 8, 2048, "quick_gelu"), length=16, projection=512),
    Vision(Size(768, 12, 12, 3072, "quick_gelu"), 32, 768, 512),
  ),
  "owlvit_large_14": Clip(
    Text(Size(768, 12, 12, 3072, "quick_gelu"), length=16, projection=768),
    Vision(Size(1024, 24, 16, 4096, "quick_gelu"), 14, 840, 768),
  ),
}

SHARDING_RULES: tower.Rules = (
  *((p.replace("^", "^clip/", 1), axes) for p, axes in clip.SHARDING_RULES),
  (r"^(class|box)_", ()),
  (r"^norm/", ()),
)


def box_bias(grid: int) -> Float[np.ndarray, "N 4"]:
  """Logits of a patch-sized box at the lower right corner of every patch."""
  at = np.arange(1, grid + 1, dtype=np.float32) / grid
  y, x = np.meshgrid(at, at, indexing="ij")
  centre = np.stack([x.ravel(), y.ravel()], -1)
  boxes = np.concatenate([centre, np.full_like(centre, 1 / grid)], -1)
  return np.log(boxes + 1e-4) - np.log1p(-boxes + 1e-4)


class OwlVit(nn.Module):
  """Normalised images and texts -> boxes and logits."""

  config: Clip
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Int[ArrayLike, "B Q L"], images: Float[ArrayLike, "B H W 3"]
  ) -> tuple[Float[Array, "B N 4"], Float[Array, "B N Q"]]:
    """(boxes as centre x, centre y, width, height in [0, 1]; logits of texts).

    Args:
      tokens: ids of Q texts for each image.
      images: normalised.
    """
    c, dtype = self.config, self.dtype
    assert c.text and c.vision
    pair = clip.ClipModel(c, dtype, name="clip")
    batch, queries = tokens.shape[:2]
    text, image, _ = pair(
      jnp.reshape(tokens, (batch * queries, -1)), images, states=True
    )
    text = _unit(text.astype(jnp.float32)).reshape(batch, queries, -1)
    image = image.astype(jnp.float32)
    patches = image[:, 1:] * image[:, :1]
    # The small heads are computed in float32, for precise boxes.
    float32 = jnp.float32
    patches = tower.layer_norm(c.vision.size.eps, float32, "norm")(patches)
    dense = lambda n, name: nn.Dense(n, dtype=float32, name=name)
    kind = dense(c.text.size.width, "class_out")(patches)
    logits = jnp.einsum("bnd,bqd->bnq", _unit(kind), text)
    shift = dense(1, "class_shift")(patches)
    scale = jax.nn.elu(dense(1, "class_scale")(patches)) + 1
    width = c.vision.size.width
    h = jax.nn.gelu(dense(width, "box_0")(patches), approximate=False)
    h = jax.nn.gelu(dense(width, "box_1")(h), approximate=False)
    bias = box_bias(c.vision.image // c.vision.patch)
    boxes = jax.nn.sigmoid(dense(4, "box_2")(h) + bias)
    return boxes, (logits + shift) * scale


def _unit(x: Array) -> Array:
  square = jnp.sum(jnp.square(x), -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def rules_of(config: Clip) -> tuple[Rule, ...]:
  """Table of public names, as transformers has them."""

  def prefixed(rule: Rule) -> Rule:
    names = [rule.public] if isinstance(rule.public, str) else rule.public
    # Spelled correctly here, and wrongly in CLIP.
    names = [
      f"owlvit.{n}".replace("pre_layrnorm", "pre_layernorm") for n in names
    ]
    ours = rule.ours and f"clip/{rule.ours}"
    return dataclasses.replace(rule, ours=ours, public=tuple(names))

  inner = clip_layouts.rules_of(config, "hf")
  return (
    *(prefixed(rule) for rule in inner if rule.ours),
    Rule("", "owlvit.text_model.embeddings.position_ids"),
    Rule("", "owlvit.vision_model.embeddings.position_ids"),
    Rule("", "box_bias"),
    *norm("norm", "layer_norm"),
    *linear("class_out", "class_head.dense0"),
    *linear("class_shift", "class_head.logit_shift"),
    *linear("class_scale", "class_head.logit_scale"),
    *(r for i in (0, 1, 2) for r in linear(f"box_{i}", f"box_head.dense{i}")),
  )


def config_of(record: Mapping[str, Any]) -> Clip:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture.
  """
  if record.get("model_type") != "owlvit":
    raise UserError(
      f'config.json describes a "{record.get("model_type")}", not an OWL-ViT'
    )
  fields.check(record, clip_layouts.BOTH_FIELDS, of="config.json")
  part = lambda name: hub.field(
    record, name, dict, of="config.json", default={}
  )
  text = {
    "max_position_embeddings": 16, "eos_token_id": 2,
    **part("text_config"),
  }  # fmt: skip
  vision = {"image_size": 768, **part("vision_config")}
  projection = hub.field(
    record, "projection_dim", int, of="config.json", default=512
  )
  # Texts are pooled at their largest id, whatever the end token is called.
  text_config = dataclasses.replace(
    clip_layouts.text_of(text, projection), eos=None
  )
  return Clip(text_config, clip_layouts.vision_of(vision, projection))


def shapes(config: Clip, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  assert config.text and config.vision
  side = config.vision.image
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 1, config.text.length), jnp.int32)
  net = OwlVit(config)
  variables = jax.eval_shape(net.init, jax.random.key(0), tokens, image)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Clip, Any]:
  """(architecture, parameters) of a public checkpoint.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  record = fields.read(spec)
  with hub.beside(spec):
    config = config_of(record)
  return config, convert.load_params(
    spec, rules_of(config), shapes(config, dtype)
  )
