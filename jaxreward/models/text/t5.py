"""The encoders of T5 1.1, for SD3 and FLUX, and of umT5, for Wan.

Raffel et al. 2019, https://arxiv.org/abs/1910.10683; Shazeer 2020 for the
gated MLP, https://arxiv.org/abs/2002.05202; Chung et al. 2023 for umT5,
https://arxiv.org/abs/2304.09151. Positions enter as a bias on the attention
logits, shared by all layers in T5 and separate for each layer in umT5; logits
are not scaled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Rule, linear, norm
from jaxreward.models.vision import tower
from jaxreward.types import Array, ArrayLike


@dataclasses.dataclass(frozen=True)
class T5:
  """Geometry of the encoder.

  Attributes:
    width: features per token.
    depth: layers.
    heads: attention heads.
    head: features of a head; heads * head need not be `width`.
    mlp: hidden features of the gated MLP.
    vocabulary: token ids.
    buckets: number of distance buckets of the bias.
    far: distance from which all keys share a bucket.
    eps: of the norms.
    shared: one bias for all layers (T5) or one for each (umT5).
  """

  width: int
  depth: int
  heads: int
  head: int
  mlp: int
  vocabulary: int = 32128
  buckets: int = 32
  far: int = 128
  eps: float = 1e-6
  shared: bool = True


SIZES = {
  "t5_small": T5(512, 8, 6, 64, 1024),
  "t5_xl": T5(2048, 24, 32, 64, 5120),
  "t5_xxl": T5(4096, 24, 64, 64, 10240),
  "umt5_xxl": T5(4096, 24, 64, 64, 10240, 256384, shared=False),
}

SHARDING_RULES: tower.Rules = (
  (r"^token$", (None, "fsdp")),
  (r"^(layers/)?places$", ()),
  (r"^layers/(qkv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^layers/(out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^(layers/norm_[12]|norm)/scale$", ()),
)


def buckets(length: int, count: int, far: int) -> Int[np.ndarray, "L L"]:
  """Bucket index of every (query, key) by their distance.

  Half of the buckets are for later keys; in each half, the first half are
  single distances and the rest grow logarithmically up to `far`.
  """
  at = np.arange(length)
  distance = at[None, :] - at[:, None]
  half = count // 2
  exact = half // 2
  size = np.abs(distance)
  share = np.log(np.maximum(size, 1) / exact) / math.log(far / exact)
  # Powers of two fall on an edge, which belongs to the upper bucket.
  large = exact + np.floor(share * (half - exact) + 1e-6).astype(np.int64)
  bucket = np.where(size < exact, size, np.minimum(large, half - 1))
  return bucket + np.where(distance > 0, half, 0)


def place_bias(
  module: nn.Module, config: T5, length: int
) -> Float[Array, "1 H L L"]:
  """The bias on attention logits by the distance of key and query."""
  table = module.param(
    "places", nn.initializers.normal(0.1), (config.buckets, config.heads)
  )
  at = buckets(length, config.buckets, config.far)
  return jnp.take(table, at, 0).astype(jnp.float32).transpose(2, 0, 1)[None]


class Layer(nn.Module):
  """Pre-norm attention and gated MLP with residuals."""

  config: T5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, bias: Array) -> tuple[Array, None]:
    c, dtype = self.config, self.dtype
    dense = lambda n, name: nn.Dense(n, use_bias=False, dtype=dtype, name=name)
    rms_norm = lambda name: nn.RMSNorm(epsilon=c.eps, dtype=dtype, name=name)
    if not c.shared:
      bias = bias + place_bias(self, c, x.shape[1])
    h = dense(3 * c.heads * c.head, "qkv")(rms_norm("norm_1")(x))
    q, k, v = jnp.split(h, 3, -1)
    h = tower.attend(q, k, v, c.heads, bias, scale=1.0)
    x = x + dense(c.width, "out")(h)
    gate, h = jnp.split(dense(2 * c.mlp, "up")(rms_norm("norm_2")(x)), 2, -1)
    return x + dense(c.width, "down")(jax.nn.gelu(gate) * h), None


class T5Encoder(nn.Module):
  """Token ids -> hidden states after the last norm."""

  config: T5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Int[ArrayLike, "B L"],
    mask: Bool[ArrayLike, "B L"] | None = None,
  ) -> Float[Array, "B L D"]:
    """Hidden states.

    Args:
      tokens: token ids.
      mask: tokens to attend to; all if None, padding included, as in SD3 and
        FLUX.
    """
    c = self.config
    table = self.param(
      "token", nn.initializers.normal(1.0), (c.vocabulary, c.width)
    )
    bias = jnp.zeros((1, 1, 1, 1))
    if c.shared:
      bias = place_bias(self, c, tokens.shape[1])
    if mask is not None:
      bias = bias + jnp.where(mask, 0.0, -1e9)[:, None, None]
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=c.depth,
    )
    x = jnp.take(table, tokens, 0).astype(self.dtype)
    x, _ = layers(c, self.dtype, name="layers")(x, bias)
    return nn.RMSNorm(epsilon=c.eps, dtype=self.dtype, name="norm")(x)


def rules_of(config: T5) -> tuple[Rule, ...]:
  """Table of public names, as transformers has them."""
  layers = range(config.depth)
  attention, mlp = "encoder.block.{}.layer.0", "encoder.block.{}.layer.1"
  place = "SelfAttention.relative_attention_bias.weight"
  rms_norm = lambda ours, public: norm(ours, public, layers, bias=False)
  dense = lambda ours, public: linear(ours, public, layers, bias=False)
  return (
    Rule("token", "shared.weight"),
    Rule("", "encoder.embed_tokens.weight"),  # a duplicate
    Rule("", "decoder.*"),
    Rule("", "lm_head.weight"),
    Rule("places", f"{attention.format(0)}.{place}")
    if config.shared
    else Rule("layers/places", f"{attention}.{place}", layers=layers),
    *rms_norm("layers/norm_1", f"{attention}.layer_norm"),
    *dense(
      "layers/qkv", tuple(f"{attention}.SelfAttention.{x}" for x in "qkv")
    ),
    *dense("layers/out", f"{attention}.SelfAttention.o"),
    *rms_norm("layers/norm_2", f"{mlp}.layer_norm"),
    *dense("layers/up", tuple(f"{mlp}.DenseReluDense.wi_{i}" for i in (0, 1))),
    *dense("layers/down", f"{mlp}.DenseReluDense.wo"),
    *norm("norm", "encoder.final_layer_norm", bias=False),
  )


_FIELDS = fields.Fields(
  read=(
    "feed_forward_proj", "d_model", "num_layers", "num_heads", "d_kv", "d_ff",
    "vocab_size", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon",
  ),
  fixed={"dense_act_fn": ("gelu_new",), "is_gated_act": (True,)},
  unread=(
    *fields.TRANSFORMERS, "classifier_dropout", "is_encoder_decoder",
    "n_positions", "num_decoder_layers", "scalable_attention",
    "scale_decoder_outputs",  # of the decoder, which is not loaded
  ),
)  # fmt: skip


def config_of(record: Mapping[str, Any]) -> T5:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture, a T5 before 1.1, or an invalid size.
  """
  kind = record.get("model_type")
  if kind not in ("t5", "umt5"):
    raise UserError(f'config.json describes a "{kind}", neither T5 nor umT5')
  if record.get("feed_forward_proj") != "gated-gelu":
    raise UserError(
      f"config.json: feed_forward_proj={record.get('feed_forward_proj')}; only"
      " gated-gelu, of T5 1.1, is read"
    )
  fields.check(record, _FIELDS, of="config.json")
  count = functools.partial(hub.field, record, kind=int, of="config.json")
  return T5(
    count("d_model"),
    count("num_layers"),
    count("num_heads"),
    count("d_kv"),
    count("d_ff"),
    count("vocab_size"),
    count("relative_attention_num_buckets", default=32),
    count("relative_attention_max_distance", default=128),
    hub.field(
      record, "layer_norm_epsilon", float, of="config.json", default=1e-6
    ),
    shared=kind == "t5",
  )


def shapes(config: T5, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  variables = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[T5, Any]:
  """(architecture, parameters) of a public checkpoint.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = config_of(fields.read(spec))
  return config, convert.load_params(
    spec, rules_of(config), shapes(config, dtype)
  )
