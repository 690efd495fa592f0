"""Public configs and names of the vision towers of Qwen2-VL to Qwen3-VL."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Form, Rule, linear, norm
from jaxreward.models.vision.qwen_vision import MODELS, Vision, VisionTower
from jaxreward.types import Params


def tower_rules(config: Vision, prefix: str) -> tuple[Rule, ...]:
  """Table of public names under `prefix`, such as "visual."."""
  c, layers, at = config, range(config.depth), f"{prefix}blocks.{{}}"
  window = (3, c.frames, c.patch, c.patch)
  flat = Form(
    lambda x: x.reshape(len(x), -1).T, lambda x: x.T.reshape(-1, *window)
  )
  bias = c.model != "qwen2_5_vl"  # of the norms
  up, down = {
    "qwen2_vl": ("fc1", "fc2"),
    "qwen2_5_vl": (("gate_proj", "up_proj"), "down_proj"),
    "qwen3_vl": ("linear_fc1", "linear_fc2"),
  }[c.model]
  up = tuple(f"{at}.mlp.{x}" for x in ((up,) if isinstance(up, str) else up))
  is_third = c.model == "qwen3_vl"
  patch = f"{prefix}patch_embed.proj"
  merger = ("norm", "linear_fc1", "linear_fc2") if is_third else (
    "ln_q", "mlp.0", "mlp.2"
  )  # fmt: skip
  mergers: list[tuple[str, str, range | None]] = [
    ("merger", f"{prefix}merger", None)
  ]
  if c.deep:
    each = range(len(c.deep))
    mergers.append(("deep", f"{prefix}deepstack_merger_list.{{}}", each))
  return (
    Rule("patch_in/kernel", f"{patch}.weight", flat),
    *((Rule("patch_in/bias", f"{patch}.bias"),) * is_third),
    *((Rule("place", f"{prefix}pos_embed.weight"),) * bool(c.table)),
    *norm("layers/norm_1", f"{at}.norm1", layers, bias=bias),
    *linear("layers/qkv", f"{at}.attn.qkv", layers),
    *linear("layers/out", f"{at}.attn.proj", layers),
    *norm("layers/norm_2", f"{at}.norm2", layers, bias=bias),
    *linear("layers/up", up, layers),
    *linear("layers/down", f"{at}.mlp.{down}", layers),
    *(
      rule
      for ours, public, each in mergers
      for rule in (
        *norm(f"{ours}/norm", f"{public}.{merger[0]}", each, bias=bias),
        *linear(f"{ours}/up", f"{public}.{merger[1]}", each),
        *linear(f"{ours}/down", f"{public}.{merger[2]}", each),
      )
    ),
  )


def rules_of(config: Vision, prefix: str = "visual.") -> tuple[Rule, ...]:
  """Table for the tower alone; new files say "model.visual."."""
  others = "lm_head.weight", "model.[!v]*"
  return (*(Rule("", n) for n in others), *tower_rules(config, prefix))


_FIELDS = fields.Fields(
  read=(
    "hidden_size", "depth", "num_heads", "intermediate_size",
    "out_hidden_size", "patch_size", "spatial_merge_size",
    "temporal_patch_size", "window_size", "fullatt_block_indexes",
    "rope_parameters", "embed_dim", "mlp_ratio", "num_position_embeddings",
    "deepstack_visual_indexes",
  ),
  fixed={"in_channels": (3,), "in_chans": (3,)},
  unread=(
    *fields.TRANSFORMERS, "rope_theta", "spatial_patch_size",
    "tokens_per_second",  # of videos
  ),
)  # fmt: skip
_ROPE_FIELDS = fields.Fields(
  read=("rope_theta",), fixed={"rope_type": ("default", "axial")}
)
_ACTIVATIONS = {
  "qwen2_vl": "quick_gelu", "qwen2_5_vl": "silu", "qwen3_vl": "gelu_pytorch_tanh",
}  # fmt: skip


def config_of(record: Mapping[str, Any]) -> Vision:
  """Geometry from the `vision_config` of a `config.json`.

  Raises:
    UserError: it is missing, or has an invalid size.
  """
  if not record.get("vision_config"):
    raise UserError(
      "config.json describes no vision tower (vision_config), with which"
      " Qwen2.5-VL reads pictures"
    )
  vision = hub.field(record, "vision_config", dict, of="config.json")
  of, model = "config.json: vision_config", record.get("model_type")
  model = model if model in MODELS else "qwen2_5_vl"
  fixed = {**_FIELDS.fixed, "hidden_act": (_ACTIVATIONS[model],)}
  fields.check(vision, dataclasses.replace(_FIELDS, fixed=fixed), of=of)
  count = functools.partial(hub.field, vision, kind=int, of=of)
  rope = vision.get("rope_parameters") or {}
  fields.check(rope, _ROPE_FIELDS, of=f"{of}: rope_parameters")
  common = (
    count("spatial_merge_size", default=2),
    count("temporal_patch_size", default=2),
  )
  theta = float(rope.get("rope_theta", 1e4))
  depth, heads = count("depth"), count("num_heads")
  if model == "qwen2_vl":
    width = count("embed_dim")
    sizes = width, depth, heads, width * count("mlp_ratio", default=4)
    return Vision(
      *sizes, count("hidden_size"), count("patch_size", default=14), *common,
      0, (), theta, model,
    )  # fmt: skip
  sizes = count("hidden_size"), depth, heads, count("intermediate_size")
  sizes = *sizes, count("out_hidden_size")
  if model == "qwen2_5_vl":
    return Vision(
      *sizes,
      count("patch_size", default=14),
      *common,
      count("window_size", default=112),
      tuple(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
      theta,
    )
  places = count("num_position_embeddings", default=2304)
  if math.isqrt(places) ** 2 != places:
    raise hub.misfit(of, "num_position_embeddings", places, "a square number")
  return Vision(
    *sizes, count("patch_size", default=16), *common, 0, (), theta, model,
    math.isqrt(places),
    tuple(vision.get("deepstack_visual_indexes", (8, 16, 24))),
  )  # fmt: skip


def shapes(config: Vision, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  side = config.patch * config.merge
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  variables = jax.eval_shape(
    VisionTower(config).init, jax.random.key(0), images
  )
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Vision, Params]:
  """(architecture, parameters) of a public checkpoint's vision tower.

  Raises:
    UserError: the checkpoint has none; see `config_of` and
      `convert.load_params`.
  """
  config = config_of(fields.read(spec))
  candidates = "visual.", "model.visual."
  tensors = hub.open_weights(spec)
  prefixes = [
    p for p in candidates if any(name.startswith(p) for name in tensors)
  ]
  if not prefixes:
    raise UserError(
      f"{spec} holds no vision tower (visual.*), with which Qwen2.5-VL reads"
      " pictures; take weights of both towers"
    )
  rules = rules_of(config, prefixes[0])
  return config, convert.load_params(spec, rules, shapes(config, dtype))
