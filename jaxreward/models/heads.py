"""Small networks on top of features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxreward.models import blocks, transport
from jaxreward.models.vision import tower
from jaxreward.types import Array

ACTIVATIONS = {"gelu": nn.gelu, "silu": nn.silu}


class Perceptron(nn.Module):
  """One hidden layer, or none if `hidden` is 0; zero-initialized output.

  Attributes:
    outputs: features of the result.
    hidden: features of the hidden layer.
    activation: of the hidden layer, a name of `ACTIVATIONS`.
    dtype: of the products; the result is float32.
  """

  outputs: int
  hidden: int
  activation: str = "gelu"
  dtype: Any = jnp.float32

  def setup(self):
    if self.hidden:
      self.head_in = blocks.dense(self.hidden, None, self.dtype)
    self.head_out = blocks.dense(self.outputs, None, self.dtype, zero=True)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B O"]:
    x = x.astype(self.dtype)
    if self.hidden:
      x = ACTIVATIONS[self.activation](self.head_in(x))
    return self.head_out(x).astype(jnp.float32)


class Layer(nn.Module):
  """A dense layer and its nonlinearity.

  Attributes:
    features: of the result.
    activation: a name of `ACTIVATIONS`.
    dtype: of the product; the result is float32.
  """

  features: int
  activation: str = "gelu"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
    x = blocks.dense(self.features, "in", self.dtype)(x.astype(self.dtype))
    return ACTIVATIONS[self.activation](x).astype(jnp.float32)


class Among(nn.Module):
  """One score per image, computed in context of the others in its group.

  Attributes:
    width: features per image.
    heads: of the attention; they divide `width`.
    dtype: of the products; the result is float32.
  """

  width: int
  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "P G D"], mask: Bool[Array, "P G"] | None = None
  ) -> Float[Array, "P G"]:
    """Images where the mask is False are not attended to."""
    x = blocks.dense(self.width, "inside", self.dtype)(x.astype(self.dtype))
    attention = nn.MultiHeadDotProductAttention(
      self.heads, dtype=self.dtype, name="attention"
    )
    keys = None if mask is None else mask[:, None, None]
    attended: Any = attention(blocks.layer_norm(x), mask=keys)
    x = x + attended
    x = x + blocks.dense(self.width, "down", self.dtype)(
      nn.gelu(
        blocks.dense(2 * self.width, "up", self.dtype)(blocks.layer_norm(x))
      )
    )
    out = blocks.dense(1, "head_out", self.dtype, zero=True)(
      blocks.layer_norm(x)
    )
    return out[..., 0].astype(jnp.float32)


class CrossAttention(nn.Module):
  """One score per image: queries attend to its tokens, then their mean.

  r = MLP(mean_q(norm(q + attention(q, image)))), invariant to the order of the
  queries. Attention with one head per `heads`, as in a transformer's decoder.

  Attributes:
    width: features of queries and keys.
    heads: of the attention; they divide `width`.
    hidden: features of the perceptron's hidden layer; 0 for none.
    vocabulary: number of token ids, for queries that are token ids.
    transport: nominal mass of a transport plan from queries to the image's
      tokens, by which the attention is multiplied; 0 for no plan.
    dtype: of the products; the result is float32.
  """

  width: int
  heads: int
  hidden: int
  vocabulary: int = 0
  transport: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    queries: Float[Array, "P M E"] | Int[Array, "P M"],
    mask: Bool[Array, "P M"],
    states: Float[Array, "P G N D"],
  ) -> Float[Array, "P G"]:
    dense = lambda n, name: blocks.dense(n, name, self.dtype)
    if jnp.issubdtype(queries.dtype, jnp.integer):
      table = nn.initializers.normal(1.0)
      rows = self.param("words", table, (self.vocabulary, self.width))
      queries = jnp.take(rows, queries % self.vocabulary, 0)
    p, g, n, _ = states.shape
    q = dense(self.width, "queries_in")(blocks.layer_norm(queries))
    x = dense(self.width, "states_in")(
      blocks.layer_norm(states.astype(self.dtype))
    )
    k, v = jnp.split(dense(2 * self.width, "kv")(x), 2, -1)
    wide = jnp.repeat(q, g, 0)
    flat = lambda y: y.reshape(p * g, n, -1)
    query, bias = dense(self.width, "query")(wide), None
    if self.transport:
      bias = transport.attention_bias(
        query, flat(k), jnp.repeat(mask, g, 0), mass=self.transport
      )
    h = tower.attend(query, flat(k), flat(v), self.heads, bias)
    h = blocks.layer_norm(wide + dense(self.width, "out")(h))
    weight = jnp.repeat(mask, g, 0).astype(h.dtype)[..., None]
    pooled = (h * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    return Perceptron(1, self.hidden, dtype=self.dtype, name="score")(
      pooled.reshape(p, g, -1)
    )[..., 0]


class Progressive(nn.Module):
  """One score from several layers' states, each queried by the previous output.

  q_1 = attention(query, layer 1), q_i = attention(q_(i-1), layer i), and
  r = W silu(V (q_S + attention(query', last)) + b), without residuals or norms.

  Attributes:
    heads: of the attention; they divide the states' features.
    dtype: of the products; the result is float32.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    layers: Float[Array, "B S N D"],
    last: Float[Array, "B N D"],
    mask: Bool[Array, "B N"] | None = None,
  ) -> Float[Array, "B"]:
    """Tokens where the mask is False are not attended to."""
    width = last.shape[-1]
    queries = self.param("queries", nn.initializers.normal(1.0), (2, width))
    dense = lambda n, name: blocks.dense(n, name, self.dtype)
    bias = None
    if mask is not None:
      bias = jnp.where(mask, 0.0, -1e30)[:, None, None]

    def attention(name: str, q: Array, x: Array) -> Array:
      q = dense(width, f"{name}_query")(q.astype(self.dtype))
      k, v = jnp.split(dense(2 * width, f"{name}_kv")(x), 2, -1)
      h = tower.attend(q, k, v, self.heads, bias)
      return dense(width, f"{name}_out")(h)

    of_all = lambda q: jnp.broadcast_to(q, (len(last), 1, width))
    q = of_all(queries[0])
    for i in range(layers.shape[1]):
      q = attention(f"layer_{i}", q, layers[:, i].astype(self.dtype))
    q += attention("last", of_all(queries[1]), last.astype(self.dtype))
    h = nn.silu(dense(width, "score_in")(q[:, 0]))
    out = blocks.dense(1, "score_out", self.dtype, bias=False)(h)
    return out[:, 0].astype(jnp.float32)
