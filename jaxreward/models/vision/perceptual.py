"""Networks behind full-reference distances: LPIPS and DISTS.

LPIPS: Zhang et al. 2018, https://arxiv.org/abs/1801.03924, over VGG-16 or
AlexNet. DISTS: Ding et al. 2020, https://arxiv.org/abs/2004.07728, over VGG-16
with blur pooling. Parameter names follow the layer numbers of torchvision, so
that they match the published files one to one.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.models.convert import Form, Rule, conv
from jaxreward.types import Array, ArrayLike

# Numbers of the convolutions in torchvision's `features`, by stage, and
# their widths.
VGG = (
  ((0, 64), (2, 64)),
  ((5, 128), (7, 128)),
  ((10, 256), (12, 256), (14, 256)),
  ((17, 512), (19, 512), (21, 512)),
  ((24, 512), (26, 512), (28, 512)),
)
ALEX = (
  ((0, 64, 11, 4, 2),),
  ((3, 192, 5, 1, 2),),
  ((6, 384, 3, 1, 1),),
  ((8, 256, 3, 1, 1),),
  ((10, 256, 3, 1, 1),),
)
WIDTHS = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# Towers of a few million numbers: replicated.
SHARDING_RULES = ((r".*", ()),)


def _conv(number: int, features: int, kernel=3, stride=1, pad=1) -> nn.Conv:
  return nn.Conv(
    features, (kernel, kernel), (stride, stride),
    padding=[(pad, pad)] * 2, name=f"conv_{number}",
  )  # fmt: skip


class VggStages(nn.Module):
  """Features after each of the five stages, from normalised images."""

  blurred: bool = False

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    stages = []
    for i, stage in enumerate(VGG):
      if i:
        x = blur_pool(x) if self.blurred else nn.max_pool(x, (2, 2), (2, 2))
      for number, features in stage:
        x = nn.relu(_conv(number, features)(x))
      stages.append(x)
    return stages


class AlexStages(nn.Module):
  """Features after each of the five convolutions."""

  @nn.compact
  def __call__(self, x: Array) -> list[Array]:
    stages = []
    for i, ((number, *geometry),) in enumerate(ALEX):
      if i in (1, 2):
        x = nn.max_pool(x, (3, 3), (2, 2))
      x = nn.relu(_conv(number, *geometry)(x))
      stages.append(x)
    return stages


def blur_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
  """L2 pooling of DISTS: root of the blurred square, with stride 2."""
  window = np.hanning(5)[1:-1]
  window = np.outer(window, window)
  kernel = jnp.asarray(window / window.sum(), x.dtype)[..., None, None]
  square = jax.lax.conv_general_dilated(
    jnp.square(x), jnp.tile(kernel, (1, 1, 1, x.shape[-1])), (2, 2),
    [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1], precision=jax.lax.Precision.HIGHEST,
  )  # fmt: skip
  return jnp.sqrt(square + 1e-12)


class Lpips(nn.Module):
  """Distance of images in [0, 1], [B]; 0 for equal ones."""

  net: str = "vgg"

  @nn.compact
  def __call__(
    self, a: Float[ArrayLike, "B H W 3"], b: Float[ArrayLike, "B H W 3"]
  ) -> Float[Array, "B"]:
    make: Any = {"vgg": VggStages, "alex": AlexStages}[self.net]
    stages = make(name="net")
    normalize = lambda x: (2 * x - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    total = jnp.zeros(a.shape[0])
    pairs = zip(stages(normalize(a)), stages(normalize(b)), strict=True)
    for i, (x, y) in enumerate(pairs):
      weight = self.param(
        f"weight_{i}", nn.initializers.constant(0.1), (x.shape[-1],)
      )
      gap = jnp.square(_unit(x) - _unit(y))
      total = total + (gap * weight).sum(-1).mean((1, 2))
    return total


def _unit(x: Array) -> Array:
  square = jnp.sum(jnp.square(x), -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-20))


class Dists(nn.Module):
  """Distance in structure and texture of images in [0, 1], [B]."""

  @nn.compact
  def __call__(
    self, a: Float[ArrayLike, "B H W 3"], b: Float[ArrayLike, "B H W 3"]
  ) -> Float[Array, "B"]:
    stages = VggStages(blurred=True, name="net")
    normalize = lambda x: (x - jnp.array(_MEAN)) / jnp.array(_STD)
    features = lambda x: [x, *stages(normalize(jnp.asarray(x)))]
    count = 3 + sum(WIDTHS["vgg"])
    alpha = self.param("alpha", nn.initializers.constant(0.1), (count,))
    beta = self.param("beta", nn.initializers.constant(0.1), (count,))
    terms = []
    for x, y in zip(features(a), features(b), strict=True):
      mx, my = x.mean((1, 2)), y.mean((1, 2))
      vx = jnp.square(x - mx[:, None, None]).mean((1, 2))
      vy = jnp.square(y - my[:, None, None]).mean((1, 2))
      covariance = (x * y).mean((1, 2)) - mx * my
      texture = (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)
      structure = (2 * covariance + 1e-6) / (vx + vy + 1e-6)
      terms.append((texture, structure))
    texture, structure = (
      jnp.concatenate(x, -1) for x in zip(*terms, strict=True)
    )
    weight = alpha.sum() + beta.sum()
    return 1 - (texture @ alpha + structure @ beta) / weight


_LINE = Form(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))


def lpips_rules(net: str, lines: str = "lin{}") -> tuple[Rule, ...]:
  """The layout of the package `lpips`, which names stages "slice1" and on."""
  stages = VGG if net == "vgg" else ALEX
  rules: tuple[Rule, ...] = ()
  for i, stage in enumerate(stages):
    for number, *_ in stage:
      rules += conv(f"net/conv_{number}", f"net.slice{i + 1}.{number}")
    rules += (Rule(f"weight_{i}", f"{lines.format(i)}.model.1.weight", _LINE),)
  alias = "lins.{}" if lines == "lin{}" else "lin{}"  # a duplicate
  ignored = [f"{alias.format(i)}.model.1.weight" for i in range(len(stages))]
  ignored += ["scaling_layer.shift", "scaling_layer.scale"]
  return (*rules, *(Rule("", name) for name in ignored))


def dists_rules() -> tuple[Rule, ...]:
  """The layout of the published DISTS module."""
  rules: tuple[Rule, ...] = (
    Rule("alpha", "alpha", _LINE),
    Rule("beta", "beta", _LINE),
  )
  for i, stage in enumerate(VGG):
    for number, _ in stage:
      rules += conv(f"net/conv_{number}", f"stage{i + 1}.{number}")
  blurs = [
    f"stage{i + 1}.{stage[0][0] - 1}.filter" for i, stage in enumerate(VGG) if i
  ]
  return (*rules, *(Rule("", name) for name in (*blurs, "mean", "std")))
