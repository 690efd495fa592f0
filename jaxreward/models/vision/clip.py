"""CLIP: a text and an image tower with a shared embedding space.

Radford et al. 2021, https://arxiv.org/abs/2103.00020. Covers the models of
OpenAI, LAION and Apple (DFN), their fine-tuned versions (PickScore, HPSv2), and
the text encoders of SD3 and FLUX.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.models.vision import tower
from jaxreward.models.vision.tower import Size
from jaxreward.types import Array, ArrayLike

_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Text:
  """Geometry of a text tower.

  Attributes:
    size: of its layers.
    vocabulary: token ids.
    length: positions.
    eos: id of the token that is pooled, at its first position. None pools at
      the largest id, the end token of the first vocabularies.
    projection: features of the shared space; 0 for a tower without projection.
  """

  size: Size
  vocabulary: int = 49408
  length: int = 77
  eos: int | None = None
  projection: int = 768


@dataclasses.dataclass(frozen=True)
class Vision:
  """Geometry of an image tower.

  Attributes:
    size: of its layers.
    patch: side of a patch in pixels.
    image: side of an image in pixels.
    projection: features of the shared space; 0 for a tower without projection.
  """

  size: Size
  patch: int = 14
  image: int = 224
  projection: int = 768


@dataclasses.dataclass(frozen=True)
class Clip:
  """Both towers; either may be None."""

  text: Text | None
  vision: Vision | None


def _both(text: tuple, vision: tuple, projection: int, **shared) -> Clip:
  (tw, td, th), (vw, vd, vh, patch, image) = text, vision
  mlp = shared.pop("vision_mlp", 4 * vw)
  return Clip(
    Text(Size(tw, td, th, 4 * tw, **shared), projection=projection),
    Vision(Size(vw, vd, vh, mlp, **shared), patch, image, projection),
  )


SIZES: dict[str, Clip] = {
  "vit_b_32": _both(
    (512, 12, 8), (768, 12, 12, 32, 224), 512, activation="quick_gelu"
  ),
  "vit_b_16": _both(
    (512, 12, 8), (768, 12, 12, 16, 224), 512, activation="quick_gelu"
  ),
  "vit_l_14": _both(
    (768, 12, 12), (1024, 24, 16, 14, 224), 768, activation="quick_gelu"
  ),
  "vit_h_14": _both((1024, 24, 16), (1280, 32, 16, 14, 224), 1024),
  "vit_bigg_14": _both(
    (1280, 32, 20), (1664, 48, 16, 14, 224), 1280, vision_mlp=8192
  ),
}

SHARDING_RULES: tower.Rules = (
  *tower.sharding_rules("(text|vision)/stack"),
  (r"^text/(token|position)$", (None, "fsdp")),
  (r"^vision/(position|patches/embedding/kernel)$", ()),
  (r"^vision/(class|norm_(in|out)/(scale|bias))$", ()),
  (r"^text/norm/(scale|bias)$", ()),
  (r"^(text|vision)/projection/kernel$", ("fsdp", None)),
  (r"^logit_scale$", ()),
)


class TextTower(nn.Module):
  """Token ids -> hidden states, and a summary at the end token."""

  config: Text
  dtype: Any = jnp.float32
  keep: bool = False

  @nn.compact
  def __call__(self, tokens: Int[ArrayLike, "B L"]) -> dict[str, Array]:
    """Encodes token ids.

    Returns:
      "last": [B, L, D] after the last norm; "pooled": [B, D], its row at the
      end token; "embedding": [B, E], that row in the shared space, if there is
      a projection; "penultimate": [B, L, D], what enters the last layer, if
      `keep` is set.
    """
    c, s = self.config, self.config.size
    table = self.param("token", _NORMAL, (c.vocabulary, s.width))
    place = self.param("position", _NORMAL, (c.length, s.width))
    length = tokens.shape[1]
    x = (jnp.take(table, tokens, 0) + place[:length]).astype(self.dtype)
    stack = tower.Stack(s, self.dtype, self.keep, name="stack")
    x, every = stack(x, tower.causal_bias(length))
    x = tower.layer_norm(s.eps, self.dtype, "norm")(x)
    end = tokens if c.eos is None else tokens == c.eos
    pooled = x[jnp.arange(len(x)), jnp.argmax(end, -1)]
    outputs = {"last": x, "pooled": pooled}
    if every is not None:
      outputs["penultimate"] = every[-2]
    if c.projection:
      outputs["embedding"] = _project(c.projection, self.dtype)(pooled)
    return outputs


class VisionTower(nn.Module):
  """Normalised images [B, H, W, 3] -> hidden states and their embedding."""

  config: Vision
  dtype: Any = jnp.float32
  keep: bool = False

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "B H W 3"]) -> dict[str, Array]:
    """Encodes images of its size.

    Returns:
      "states": [B, 1 + N, D] after the last norm, the class token first;
      "pooled": [B, D], the class token; "embedding": [B, E], that token in the
      shared space, if there is a projection; "penultimate": [B, 1 + N, D], what
      enters the last layer, if `keep` is set.
    """
    c, s = self.config, self.config.size
    patches = tower.Patches(s.width, c.patch, False, self.dtype, name="patches")
    x = patches(jnp.asarray(x, self.dtype))
    class_token = self.param("class", _NORMAL, (s.width,))
    place = self.param("position", _NORMAL, (x.shape[1] + 1, s.width))
    class_token = jnp.broadcast_to(class_token, (len(x), 1, s.width)).astype(
      self.dtype
    )
    x = jnp.concatenate([class_token, x], 1) + place.astype(self.dtype)
    x = tower.layer_norm(s.eps, self.dtype, "norm_in")(x)
    x, every = tower.Stack(s, self.dtype, self.keep, name="stack")(x)
    x = tower.layer_norm(s.eps, self.dtype, "norm_out")(x)
    outputs = {"states": x, "pooled": x[:, 0]}
    if every is not None:
      outputs["penultimate"] = every[-2]
    if c.projection:
      outputs["embedding"] = _project(c.projection, self.dtype)(x[:, 0])
    return outputs


def _project(features: int, dtype: Any) -> nn.Dense:
  return nn.Dense(features, use_bias=False, dtype=dtype, name="projection")


class ClipModel(nn.Module):
  """The towers present, and the logarithm of the logit scale."""

  config: Clip
  dtype: Any = jnp.float32

  def setup(self):
    if self.config.text:
      self.text = TextTower(self.config.text, self.dtype)
    if self.config.vision:
      self.vision = VisionTower(self.config.vision, self.dtype)
    if self.config.text and self.config.vision:
      self.logit_scale = self.param(
        "logit_scale", nn.initializers.constant(2.6592), ()
      )

  def __call__(
    self,
    tokens: Int[ArrayLike, "P L"],
    images: Float[ArrayLike, "B H W 3"],
    states: bool = False,
  ) -> tuple[Float[Array, "P E"], Array, Float[Array, ""]]:
    """(text embeddings, image embeddings [B, E], scale), not of unit length.

    Args:
      tokens: ids of texts.
      images: normalised images.
      states: the image tower's states [B, 1 + N, D] in place of embeddings.
    """
    text = self.text(tokens)["embedding"]
    image = self.vision(images)["states" if states else "embedding"]
    return text, image, jnp.exp(jnp.asarray(self.logit_scale))

  def encode_text(self, tokens: Int[ArrayLike, "B L"]) -> dict[str, Array]:
    """See `TextTower`."""
    return self.text(tokens)

  def encode_image(
    self, images: Float[ArrayLike, "B H W 3"]
  ) -> dict[str, Array]:
    """See `VisionTower`."""
    return self.vision(images)
