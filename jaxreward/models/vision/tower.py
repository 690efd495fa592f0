"""The pre-norm transformer that CLIP, SigLIP, DINO and BLIP towers share.

The layers are stacked and run by one scan, so that compile time does not depend
on depth; kernels carry the layer axis first. Norms and softmax are computed in
float32 whatever the compute dtype, and the backward pass holds one layer's
activations at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


def quick_gelu(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
  """x sigmoid(1.702 x), of the first CLIP models."""
  return x * jax.nn.sigmoid(1.702 * x)


def _gelu(x: Array) -> Array:
  return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "quick_gelu": quick_gelu,
  "gelu": _gelu,
  "gelu_tanh": jax.nn.gelu,
  "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class Size:
  """Geometry of a stack of layers.

  Attributes:
    width: features per token.
    depth: layers.
    heads: attention heads; they divide `width`.
    mlp: hidden features of a layer's MLP.
    activation: a name of `ACTIVATIONS`.
    eps: of the norms.
    gated: the MLP is down(act(gate) * up), gate and up in one product.
    scaled: residual branches are scaled per feature (LayerScale).
    key_bias: keys have a bias, as queries and values always do.
  """

  width: int
  depth: int
  heads: int
  mlp: int
  activation: str = "gelu"
  eps: float = 1e-5
  gated: bool = False
  scaled: bool = False
  key_bias: bool = True


def sharding_rules(prefix: str) -> Rules:
  """Rules of one stack whose parameters lie under `prefix`/layers."""
  layers = rf"^{prefix}/layers"
  return (
    (rf"{layers}/(qkv|up)/kernel$", (None, "fsdp", "tensor")),
    (rf"{layers}/(out|down)/kernel$", (None, "tensor", "fsdp")),
    (rf"{layers}/.*(bias|scale(_[12])?)$", ()),
  )


def layer_norm(eps: float, dtype: Any, name: str | None = None) -> nn.LayerNorm:
  """LayerNorm with float32 statistics."""
  return nn.LayerNorm(
    epsilon=eps, dtype=dtype, name=name, use_fast_variance=False
  )


def attend(
  q: Float[Array, "B N F"],
  k: Float[Array, "B M F"],
  v: Float[Array, "B M F"],
  heads: int,
  bias: Float[Array, "#B #H #N M"] | None = None,
  scale: float | None = None,
) -> Float[Array, "B N F"]:
  """Multi-head softmax attention of projected queries, keys and values.

  Args:
    q: queries of all heads, side by side.
    k: keys.
    v: values.
    heads: they divide F.
    bias: added to the logits; -inf for masked keys.
    scale: of the logits; one over the root of a head's width if None.
  """
  heads_of = lambda x: x.reshape(*x.shape[:2], heads, -1)
  q, k, v = heads_of(q), heads_of(k), heads_of(v)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  logits = jnp.einsum(
    "bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32
  )
  logits = logits * scale
  if bias is not None:
    logits = logits + bias
  weight = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  out = jnp.einsum("bhnm,bmhd->bnhd", weight, v)
  return out.reshape(*out.shape[:2], -1)


def causal_bias(length: int) -> Float[Array, "1 1 {length} {length}"]:
  """0 where a token may attend to another, -inf elsewhere."""
  visible = jnp.tril(jnp.ones((length, length), bool))
  return jnp.where(visible, 0.0, -jnp.inf)[None, None]


def rotate(
  x: Float[Array, "B N F"],
  heads: int,
  angles: Float[Array, "#B M D"],
) -> Float[Array, "B N F"]:
  """Rotates the last M tokens of every head by their angles (Su et al. 2021).

  Feature i of a head is paired with feature i + D / 2.
  """
  count = angles.shape[1]
  h = x.reshape(*x.shape[:2], heads, -1)
  prefix, suffix = h[:, : h.shape[1] - count], h[:, h.shape[1] - count :]
  first, second = jnp.split(suffix, 2, axis=-1)
  swapped = jnp.concatenate([-second, first], axis=-1)
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  suffix = (suffix * cos + swapped * sin).astype(x.dtype)
  return jnp.concatenate([prefix, suffix], axis=1).reshape(x.shape)


class Layer(nn.Module):
  """Pre-norm attention and MLP with residuals."""

  size: Size
  dtype: Any = jnp.float32
  keep: bool = False

  @nn.compact
  def __call__(
    self, x: Array, bias: Array | None, angles: Array | None
  ) -> tuple[Array, Array | None]:
    s, dtype = self.size, self.dtype
    dense = lambda n, name: nn.Dense(n, dtype=dtype, name=name)
    h = layer_norm(s.eps, dtype, "norm_1")(x)
    if s.key_bias:
      h = dense(3 * s.width, "qkv")(h)
    else:
      h = nn.Dense(3 * s.width, use_bias=False, dtype=dtype, name="qkv")(h)
      bias_qv = self.param("qv_bias", nn.initializers.zeros, (2, s.width))
      none = jnp.zeros((1, s.width))
      shift = jnp.concatenate([bias_qv[:1], none, bias_qv[1:]]).reshape(-1)
      h = h + shift.astype(h.dtype)
    q, k, v = jnp.split(h, 3, -1)
    if angles is not None:
      q, k = rotate(q, s.heads, angles), rotate(k, s.heads, angles)
    h = dense(s.width, "out")(attend(q, k, v, s.heads, bias))
    x = x + self._scaled(h, "scale_1")
    h = layer_norm(s.eps, dtype, "norm_2")(x)
    h = dense(2 * s.mlp if s.gated else s.mlp, "up")(h)
    active = ACTIVATIONS[s.activation]
    if s.gated:
      gate, h = jnp.split(h, 2, -1)
      h = active(gate) * h
    else:
      h = active(h)
    x = x + self._scaled(dense(s.width, "down")(h), "scale_2")
    return x, x if self.keep else None

  def _scaled(self, x: Array, name: str) -> Array:
    if not self.size.scaled:
      return x
    scale = self.param(name, nn.initializers.ones, (self.size.width,))
    return x * scale.astype(x.dtype)


class Stack(nn.Module):
  """All layers of a tower, without embeddings and last norm.

  Attributes:
    size: geometry.
    dtype: of the products.
    keep: also return the output of every layer, [L, B, N, D].
  """

  size: Size
  dtype: Any = jnp.float32
  keep: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B N D"],
    bias: Array | None = None,
    angles: Array | None = None,
  ) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None]:
    """(output, outputs of all layers if they are kept)."""
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.size.depth,
    )
    return layers(self.size, self.dtype, self.keep, name="layers")(
      x, bias, angles
    )


class Patches(nn.Module):
  """Linear embedding of square patches, row by row."""

  width: int
  patch: int
  bias: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
    p = self.patch
    h = nn.Conv(
      self.width, (p, p), (p, p), padding="VALID", use_bias=self.bias,
      dtype=self.dtype, name="embedding",
    )(x)  # fmt: skip
    return h.reshape(h.shape[0], -1, self.width)
