"""Public configs and names of Qwen3 and the language models of Qwen2-VL to
Qwen3-VL."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Rule, linear, norm
from jaxreward.models.text.qwen import Qwen, QwenText
from jaxreward.types import Params

MODELS = {
  "qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL",
  "qwen3": "Qwen3",
}  # fmt: skip


def layer_rules(config: Qwen, prefix: str) -> tuple[Rule, ...]:
  """Table of public names under `prefix`, such as "model."."""
  layers, at = range(config.depth), f"{prefix}layers.{{}}"
  attended, bias = f"{at}.self_attn", not config.qwen3
  scales = ("query", "q"), ("key", "k")
  return (
    Rule("token", f"{prefix}embed_tokens.weight"),
    *norm("layers/norm_1", f"{at}.input_layernorm", layers, bias=False),
    *linear("layers/query", f"{attended}.q_proj", layers, bias=bias),
    *linear(
      "layers/kv",
      tuple(f"{attended}.{x}_proj" for x in "kv"),
      layers,
      bias=bias,
    ),
    *(
      rule
      for ours, public in scales * config.qwen3
      for rule in norm(
        f"layers/{ours}_norm", f"{attended}.{public}_norm", layers, bias=False
      )
    ),
    *linear("layers/out", f"{attended}.o_proj", layers, bias=False),
    *norm(
      "layers/norm_2", f"{at}.post_attention_layernorm", layers, bias=False
    ),
    *linear(
      "layers/up",
      (f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
      layers,
      bias=False,
    ),
    *linear("layers/down", f"{at}.mlp.down_proj", layers, bias=False),
    *norm("norm", f"{prefix}norm", bias=False),
  )


def rules_of(config: Qwen, prefix: str = "model.") -> tuple[Rule, ...]:
  """Table for this model alone; new files say "model.language_model."."""
  others = "lm_head.weight", "visual.*", "model.visual.*"
  return (*(Rule("", n) for n in others), *layer_rules(config, prefix))


_FIELDS = fields.Fields(
  read=(
    "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "vocab_size", "rope_theta",
    "rope_parameters", "rope_scaling", "rms_norm_eps", "image_token_id",
    "text_config", "vision_config", "layer_types", "head_dim",
  ),
  fixed={
    "hidden_act": ("silu",), "use_sliding_window": (False,),
    "attention_bias": (False,),
  },
  unread=(
    *fields.TRANSFORMERS, "max_position_embeddings", "max_window_layers",
    "sliding_window",  # of layers that use it
    "video_token_id", "vision_end_token_id", "vision_start_token_id",
    "vision_token_id",
  ),
)  # fmt: skip
_ROPE_FIELDS = fields.Fields(
  read=("mrope_section", "rope_theta"),
  fixed={"rope_type": ("default", "mrope"), "type": ("default", "mrope")},
)


def config_of(
  record: Mapping[str, Any], models: Sequence[str] = ("qwen2_5_vl",)
) -> Qwen:
  """Geometry from `config.json`.

  Args:
    record: its content.
    models: of `MODELS`, those that are accepted.

  Raises:
    UserError: another architecture, or an invalid size.
  """
  model = record.get("model_type")
  if model not in models:
    names = " or ".join(MODELS[name] for name in models)
    raise UserError(f'config.json describes a "{model}", not {names}')
  of, qwen3 = "config.json", model in ("qwen3_vl", "qwen3")
  part = hub.field(record, "text_config", dict, of=of, default={})
  text: Any = {**record, **part}
  fields.check(text, _FIELDS, of=of)
  count = functools.partial(hub.field, text, kind=int, of=of)
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  known = dataclasses.replace(
    _ROPE_FIELDS,
    fixed={**_ROPE_FIELDS.fixed, "mrope_interleaved": (qwen3,)},
  )
  fields.check(rope, known, of=f"{of}: rope_parameters")
  if set(text.get("layer_types") or ()) - {"full_attention"}:
    raise hub.misfit(
      of, "layer_types", text["layer_types"], "full_attention in every layer"
    )
  width, heads = count("hidden_size"), count("num_attention_heads")
  sections = (24, 20, 20) if qwen3 else (16, 24, 24)
  return Qwen(
    width,
    count("num_hidden_layers"),
    heads,
    count("num_key_value_heads"),
    count("intermediate_size"),
    count("vocab_size"),
    float(
      text.get("rope_theta") or rope.get("rope_theta", 5e5 if qwen3 else 1e6)
    ),
    text.get("rms_norm_eps", 1e-6 if qwen3 else 1e-5),
    tuple(rope.get("mrope_section", sections)),
    record.get("image_token_id", 151655),
    # Only Qwen3 reads the field.
    count("head_dim", default=128) if qwen3 else width // heads,
    qwen3,
    bool(text.get("tie_word_embeddings") or record.get("tie_word_embeddings")),
  )


def shapes(config: Qwen, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  variables = jax.eval_shape(QwenText(config).init, jax.random.key(0), tokens)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def load(
  spec: os.PathLike[str] | str,
  *,
  dtype: str = "float32",
  models: Sequence[str] = ("qwen2_5_vl",),
) -> tuple[Qwen, Params]:
  """(architecture, parameters) of a public checkpoint.

  Args:
    spec: see `hub.resolve`.
    dtype: of the parameters.
    models: of `MODELS`, those that are accepted.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = config_of(fields.read(spec), models)
  names = hub.open_weights(spec)
  prefixes = ("model.language_model.", "")
  nested = (prefix for prefix in prefixes if f"{prefix}norm.weight" in names)
  rules = rules_of(config, next(nested, "model."))
  return config, convert.load_params(spec, rules, shapes(config, dtype))
