"""The text tower of Qwen2.5-VL, with which Qwen-Image reads prompts.

Bai et al. 2025, https://arxiv.org/abs/2502.13923; Wu et al. 2025 (Qwen-Image),
https://arxiv.org/abs/2508.02324. A causal transformer with rotary places,
grouped keys and a gated MLP; for texts alone its three axes of places are one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, hub, tower
from jaxreward.models.convert import Rule, linear, norm
from jaxreward.types import Array, ArrayLike, Params

# What Qwen-Image sets around a prompt; states of the part before it are cut.
TEMPLATE = (
  "<|im_start|>system\nDescribe the image by detailing the color, shape, size,"
  " texture, quantity, text, spatial relationships of the objects and"
  " background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>"
  "assistant\n"
)
TEMPLATE_TOKENS = 34
# Qwen-Image-Edit's, without the picture in it, which the text tower cannot see.
EDIT_TEMPLATE = (
  "<|im_start|>system\nDescribe the key features of the input image (color,"
  " shape, size, texture, objects, background), then explain how the user's text"
  " instruction should alter or modify the image. Generate a new image that"
  " meets the user's requirements while maintaining consistency with the"
  " original input where appropriate.<|im_end|>\n<|im_start|>user\n{}"
  "<|im_end|>\n<|im_start|>assistant\n"
)
EDIT_TEMPLATE_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Qwen:
  """Geometry of the tower.

  Attributes:
    width: features per token.
    depth: layers.
    heads: attention heads of the queries; their width is width / heads.
    groups: heads of keys and values, each for heads / groups queries.
    mlp: hidden features of the gated MLP.
    vocabulary: token ids.
    theta: base of the rotary places.
    eps: of the norms.
  """

  width: int
  depth: int
  heads: int
  groups: int
  mlp: int
  vocabulary: int = 152064
  theta: float = 1e6
  eps: float = 1e-6


SIZES = {
  "qwen2.5_vl_3b": Qwen(2048, 36, 16, 2, 11008, 151936),
  "qwen2.5_vl_7b": Qwen(3584, 28, 28, 4, 18944),
}

SHARDING_RULES: tower.Rules = (
  (r"^token$", (None, "fsdp")),
  (r"^layers/(query|kv|up)/kernel$", (None, "fsdp", "tensor")),
  (r"^layers/(out|down)/kernel$", (None, "tensor", "fsdp")),
  (r"^layers/(query|kv)/bias$", ()),
  (r"^(layers/norm_[12]|norm)/scale$", ()),
)


class Layer(nn.Module):
  """Attention and gated MLP, each on scaled input and added to it."""

  config: Qwen
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, bias: Array, angles: Array
  ) -> tuple[Array, None]:
    c, dtype = self.config, self.dtype
    plain = lambda n, name: nn.Dense(n, use_bias=False, dtype=dtype, name=name)
    scaled = lambda name: nn.RMSNorm(epsilon=c.eps, dtype=dtype, name=name)
    head = c.width // c.heads
    h = scaled("norm_1")(x)
    q = nn.Dense(c.width, dtype=dtype, name="query")(h)
    kv = nn.Dense(2 * c.groups * head, dtype=dtype, name="kv")(h)
    k, v = jnp.split(kv, 2, -1)
    q, k = tower.rotate(q, c.heads, angles), tower.rotate(k, c.groups, angles)
    k, v = (_repeated(y, c.groups, c.heads) for y in (k, v))
    x = x + plain(c.width, "out")(tower.attend(q, k, v, c.heads, bias))
    gate, h = jnp.split(plain(2 * c.mlp, "up")(scaled("norm_2")(x)), 2, -1)
    return x + plain(c.width, "down")(jax.nn.silu(gate) * h), None


def _repeated(x: Array, groups: int, heads: int) -> Array:
  """Every head of a group, once for each query head that shares it."""
  split = x.reshape(*x.shape[:2], groups, -1)
  return jnp.repeat(split, heads // groups, 2).reshape(*x.shape[:2], -1)


class QwenText(nn.Module):
  """Token ids, padded on the right, -> hidden states after the last norm."""

  config: Qwen
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[ArrayLike, "B L"]) -> Float[Array, "B L D"]:
    c, length = self.config, tokens.shape[1]
    table = self.param(
      "token", nn.initializers.normal(0.02), (c.vocabulary, c.width)
    )
    frequency = c.theta ** -jnp.arange(0, 1, 2 * c.heads / c.width)
    angles = jnp.tile(jnp.arange(length)[:, None] * frequency, 2)[None]
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=c.depth,
    )
    x = jnp.take(table, tokens, 0).astype(self.dtype)
    bias = tower.causal_bias(length)
    x, _ = layers(c, self.dtype, name="layers")(x, bias, angles)
    return nn.RMSNorm(epsilon=c.eps, dtype=self.dtype, name="norm")(x)


def tokenize(
  tokens: Any,
  texts: Sequence[str],
  length: int,
  template: str = TEMPLATE,
  drop: int = TEMPLATE_TOKENS,
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
  """(ids, mask) of texts in Qwen-Image's template, padded on the right.

  Args:
    tokens: transformers' tokenizer of the model.
    texts: the prompts.
    length: most tokens of a prompt, 1024 for the public pipeline; the template
      before it comes on top. What is longer is cut at the end.
    template: what is set around a prompt.
    drop: tokens of the part before it.
  """
  whole = length + drop
  ids, mask = (
    np.zeros((len(texts), whole), np.int32),
    np.zeros((len(texts), whole), bool),
  )
  for row, text in enumerate(texts):
    found = tokens(template.format(text), truncation=True, max_length=whole)
    found = found["input_ids"]
    ids[row, : len(found)], mask[row, : len(found)] = found, True
  return ids, mask


def encode_qwen_image(
  config: Qwen,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  *,
  dtype: Any = jnp.float32,
  drop: int = TEMPLATE_TOKENS,
) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
  """(states, mask) as Qwen-Image takes them; 0 where the mask is False.

  Args:
    config: geometry of the tower.
    params: of it.
    tokens: from `tokenize`.
    mask: from `tokenize`.
    dtype: of the products.
    drop: leading tokens that belong to the template.
  """
  states: Any = QwenText(config, dtype).apply({"params": params}, tokens)
  kept = jnp.asarray(mask)[:, drop:]
  return jnp.where(kept[..., None], states[:, drop:], 0.0), kept


def rules_of(config: Qwen, prefix: str = "model.") -> tuple[Rule, ...]:
  """Table of public names; new files say "model.language_model."."""
  each, at = range(config.depth), f"{prefix}layers.{{}}"
  attention = f"{at}.self_attn"
  return (
    Rule("token", f"{prefix}embed_tokens.weight"),
    Rule("", "lm_head.weight"),
    Rule("", "visual.*"),
    Rule("", "model.visual.*"),
    *norm("layers/norm_1", f"{at}.input_layernorm", each, bias=False),
    *linear("layers/query", f"{attention}.q_proj", each),
    *linear("layers/kv", tuple(f"{attention}.{x}_proj" for x in "kv"), each),
    *linear("layers/out", f"{attention}.o_proj", each, bias=False),
    *norm("layers/norm_2", f"{at}.post_attention_layernorm", each, bias=False),
    *linear(
      "layers/up",
      (f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
      each,
      bias=False,
    ),
    *linear("layers/down", f"{at}.mlp.down_proj", each, bias=False),
    *norm("norm", f"{prefix}norm", bias=False),
  )


def config_of(record: Mapping[str, Any]) -> Qwen:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture.
  """
  if record.get("model_type") != "qwen2_5_vl":
    raise UserError(
      f'config.json describes a "{record.get("model_type")}", not Qwen2.5-VL'
    )
  text: Any = {**record, **record.get("text_config", {})}
  rope = text.get("rope_parameters") or {}
  return Qwen(
    text["hidden_size"],
    text["num_hidden_layers"],
    text["num_attention_heads"],
    text["num_key_value_heads"],
    text["intermediate_size"],
    text["vocab_size"],
    float(text.get("rope_theta") or rope.get("rope_theta", 1e6)),
    text.get("rms_norm_eps", 1e-6),
  )


def shapes(config: Qwen, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  made = jax.eval_shape(QwenText(config).init, jax.random.key(0), tokens)
  cast = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(cast, made["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Qwen, Params]:
  """(architecture, parameters) of a public checkpoint's text tower.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = config_of(hub.read_config(spec))
  nested = "model.language_model.norm.weight" in hub.open_weights(spec)
  rules = rules_of(config, "model.language_model." if nested else "model.")
  return config, convert.load_params(spec, rules, shapes(config, dtype))
