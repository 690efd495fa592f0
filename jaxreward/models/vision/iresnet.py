"""IResNet: the face tower of ArcFace and its successors.

Deng et al. 2019, https://arxiv.org/abs/1801.07698, in the layout of
insightface's `iresnet` modules. Norms use the stored statistics; the tower is
not trained here.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models import convert, hub
from jaxreward.models.convert import Form, Rule, conv, linear
from jaxreward.types import Array, ArrayLike

BLOCKS = {
  "iresnet18": (2, 2, 2, 2),
  "iresnet34": (3, 4, 6, 3),
  "iresnet50": (3, 4, 14, 3),
  "iresnet100": (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)
SIDE, FEATURES = 112, 512

# A few tens of millions of numbers: replicated.
SHARDING_RULES = ((r"", ()),)


class StoredNorm(nn.Module):
  """Batch norm with stored mean and variance."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    one, zero = nn.initializers.ones, nn.initializers.zeros
    width = (x.shape[-1],)
    scale, bias = (
      self.param("scale", one, width),
      self.param("bias", zero, width),
    )
    mean, var = self.param("mean", zero, width), self.param("var", one, width)
    factor = scale * jax.lax.rsqrt(jnp.asarray(var) + 1e-5)
    return x * factor + (bias - mean * factor)


class Prelu(nn.Module):
  """max(x, 0) + w min(x, 0), a slope per channel."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
    return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


def _conv(width: int, kernel: int, stride: int, name: str) -> nn.Conv:
  pad = [(kernel // 2, kernel // 2)] * 2
  return nn.Conv(
    width, (kernel, kernel), (stride, stride), pad, use_bias=False, name=name
  )


class Block(nn.Module):
  """Residual block: norm, convolution, norm, PReLU, convolution, norm."""

  width: int
  stride: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    h = StoredNorm(name="bn1")(x)
    h = StoredNorm(name="bn2")(_conv(self.width, 3, 1, "conv1")(h))
    h = _conv(self.width, 3, self.stride, "conv2")(Prelu(name="prelu")(h))
    h = StoredNorm(name="bn3")(h)
    if self.stride > 1:
      x = _conv(self.width, 1, self.stride, "short")(x)
      x = StoredNorm(name="short_bn")(x)
    return h + x


class IResNet(nn.Module):
  """Faces [B, 112, 112, 3] in [-1, 1] -> features [B, 512]."""

  blocks: tuple[int, ...]
  widths: tuple[int, ...] = WIDTHS
  features: int = FEATURES

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "B H W 3"]) -> Float[Array, "B E"]:
    x = _conv(self.widths[0], 3, 1, "conv1")(jnp.asarray(x))
    x = Prelu(name="prelu")(StoredNorm(name="bn1")(x))
    for i, (count, width) in enumerate(
      zip(self.blocks, self.widths, strict=True)
    ):
      for j in range(count):
        x = Block(width, 2 if j == 0 else 1, name=f"layer{i + 1}_{j}")(x)
    x = StoredNorm(name="bn2")(x)
    x = nn.Dense(self.features, name="fc")(x.reshape(x.shape[0], -1))
    return StoredNorm(name="features")(x)


def _norm(ours: str, public: str) -> tuple[Rule, ...]:
  names = {
    "scale": "weight", "bias": "bias",
    "mean": "running_mean", "var": "running_var",
  }  # fmt: skip
  counter = Rule("", f"{public}.num_batches_tracked")  # of training
  rules = (Rule(f"{ours}/{k}", f"{public}.{v}") for k, v in names.items())
  return (*rules, counter)


def rules_of(net: IResNet, side: int = SIDE) -> tuple[Rule, ...]:
  """Table of public names; `side` is that of the images in pixels."""
  grid, width = side // 16, net.widths[-1]
  # Public features are flattened channel-first, ours channel-last.
  dense_form = Form(
    lambda x: x.reshape(-1, width, grid * grid).swapaxes(1, 2).reshape(
      x.shape[0], -1
    ).T,
    lambda x: x.T.reshape(-1, grid * grid, width).swapaxes(1, 2).reshape(
      x.shape[1], -1
    ),
  )  # fmt: skip
  rules = (
    *conv("conv1", "conv1", bias=False),
    *_norm("bn1", "bn1"),
    Rule("prelu/slope", "prelu.weight"),
  )
  for i, count in enumerate(net.blocks):
    for j in range(count):
      ours, public = f"layer{i + 1}_{j}", f"layer{i + 1}.{j}"
      for n in (1, 2, 3):
        rules += _norm(f"{ours}/bn{n}", f"{public}.bn{n}")
      for n in (1, 2):
        rules += conv(f"{ours}/conv{n}", f"{public}.conv{n}", bias=False)
      rules += (Rule(f"{ours}/prelu/slope", f"{public}.prelu.weight"),)
      if j == 0:
        rules += conv(f"{ours}/short", f"{public}.downsample.0", bias=False)
        rules += _norm(f"{ours}/short_bn", f"{public}.downsample.1")
  return (
    *rules,
    *_norm("bn2", "bn2"),
    Rule("fc/kernel", "fc.weight", dense_form),
    *linear("fc", "fc")[1:],
    *_norm("features", "features"),
  )


def shapes(net: IResNet, side: int = SIDE) -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return jax.eval_shape(net.init, jax.random.key(0), image)["params"]


def net_of(spec: str) -> IResNet:
  """The architecture of weights in insightface's layout, from their shapes.

  Raises:
    UserError: unreadable weights, or not an IResNet.
  """
  tensors = hub.open_weights(spec)
  names = [f"layer{i + 1}.{{}}.conv1.weight" for i in range(len(WIDTHS))]
  shape = functools.partial(hub.shape_of, tensors, of=f"{spec}: no IResNet")
  widths = tuple(shape(name.format(0), 4)[0] for name in names)
  blocks = tuple(hub.count_layers(tensors, name) for name in names)
  return IResNet(blocks, widths, shape("fc.weight", 2)[0])


def load(spec: str, net: IResNet, side: int = SIDE) -> Any:
  """Parameters of a public checkpoint; raises as `convert.load_params`."""
  return convert.load_params(spec, rules_of(net, side), shapes(net, side))
