"""DINOv2, with and without registers, and DINOv3: vision-only towers.

Oquab et al. 2023, https://arxiv.org/abs/2304.07193; Darcet et al. 2023,
https://arxiv.org/abs/2309.16588; Simeoni et al. 2025,
https://arxiv.org/abs/2508.10104.
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
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Form, Rule, conv, linear, norm
from jaxreward.models.vision import clip_layouts, tower
from jaxreward.models.vision.tower import Size
from jaxreward.types import Array, ArrayLike

_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Dino:
  """Geometry of a tower.

  Attributes:
    size: of its layers.
    patch: side of a patch in pixels.
    image: side of the images of the learned position table (version 2).
    registers: number of register tokens.
    theta: base of the rotary positions of version 3; 0 for learned ones.
  """

  size: Size
  patch: int = 14
  image: int = 518
  registers: int = 0
  theta: float = 0.0


def _v2(width, depth, heads, registers=0, gated=0) -> Dino:
  active = "silu" if gated else "gelu"
  size = Size(
    width, depth, heads, gated or 4 * width, active, 1e-6, bool(gated), True
  )
  return Dino(size, 14, 518, registers)


def _v3(width, depth, heads, gated=0) -> Dino:
  active = "silu" if gated else "gelu"
  size = Size(
    width, depth, heads, gated or 4 * width, active, 1e-5, bool(gated), True,
    key_bias=False,
  )  # fmt: skip
  return Dino(size, 16, 224, 4, 100.0)


SIZES = {
  "dinov2_small": _v2(384, 12, 6),
  "dinov2_base": _v2(768, 12, 12),
  "dinov2_large": _v2(1024, 24, 16),
  "dinov2_giant": _v2(1536, 40, 24, gated=4096),
  "dinov2_registers_large": _v2(1024, 24, 16, 4),
  "dinov3_vits16": _v3(384, 12, 6),
  "dinov3_vitb16": _v3(768, 12, 12),
  "dinov3_vitl16": _v3(1024, 24, 16),
}

SHARDING_RULES: tower.Rules = (
  *tower.sharding_rules("stack"),
  (r"^(class|position|registers)$", ()),
  (r"^(patches/embedding|norm)/(kernel|bias|scale)$", ()),
)


class DinoModel(nn.Module):
  """Normalised images -> class token and patches."""

  config: Dino
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "B H W 3"]) -> dict[str, Array]:
    """Encodes images whose sides are multiples of a patch.

    Returns:
      "pooled": [B, D], the class token; "patches": [B, N, D]; both after the
      last norm.
    """
    c, s, dtype = self.config, self.config.size, self.dtype
    x = jnp.asarray(x, dtype)
    rows, columns = x.shape[1] // c.patch, x.shape[2] // c.patch
    x = tower.Patches(s.width, c.patch, True, dtype, name="patches")(x)
    class_token = self.param("class", _NORMAL, (1, 1, s.width))
    parts = [jnp.repeat(class_token, len(x), 0).astype(dtype), x]
    angles = None
    if c.theta:
      angles = rotary_angles(rows, columns, s.width // s.heads, c.theta)
    else:
      count = (c.image // c.patch) ** 2
      place = self.param("position", _NORMAL, (1, 1 + count, s.width))
      place = places(place, rows, columns, bool(c.registers)).astype(dtype)
      parts = [parts[0] + place[:, :1], parts[1] + place[:, 1:]]
    if c.registers:
      extra = self.param("registers", _NORMAL, (1, c.registers, s.width))
      parts.insert(1, jnp.repeat(extra, len(x), 0).astype(dtype))
    x, _ = tower.Stack(s, dtype, name="stack")(
      jnp.concatenate(parts, 1), None, angles
    )
    x = tower.layer_norm(s.eps, dtype, "norm")(x)
    return {"pooled": x[:, 0], "patches": x[:, 1 + c.registers :]}


def places(
  table: Float[ArrayLike, "1 N D"], rows: int, columns: int, antialias: bool
) -> Float[Array, "1 M D"]:
  """Learned positions, the class token's first, resized to another grid.

  Towers with registers resize with antialiasing; those without use PyTorch's
  sharper cubic, not antialiased.
  """
  table = jnp.asarray(table)
  side = math.isqrt(table.shape[1] - 1)
  if (rows, columns) == (side, side):
    return table
  grid = table[0, 1:].reshape(side, side, -1)
  if antialias:
    grid = jax.image.resize(grid, (rows, columns, grid.shape[-1]), "cubic")
  else:
    up, across = sharp_cubic(side, rows), sharp_cubic(side, columns)
    grid = jnp.einsum("hi,wj,ijd->hwd", up, across, grid)
  return jnp.concatenate([table[:, :1], grid.reshape(1, rows * columns, -1)], 1)


def sharp_cubic(size: int, wanted: int) -> Float[np.ndarray, "{wanted} {size}"]:
  """Cubic interpolation with a = -0.75, not antialiased, edges repeated."""
  at = (np.arange(wanted) + 0.5) * size / wanted - 0.5
  taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
  x = np.abs(at[:, None] - taps)
  a = -0.75
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  weight = np.where(x <= 1, near, far)
  matrix = np.zeros((wanted, size), np.float32)
  rows = np.repeat(np.arange(wanted), 4)
  np.add.at(matrix, (rows, np.clip(taps, 0, size - 1).ravel()), weight.ravel())
  return matrix


def rotary_angles(
  rows: int, columns: int, width: int, theta: float
) -> Float[Array, "1 N {width}"]:
  """Angles of the patches' centres, which lie in [-1, 1] on both axes."""
  centre = lambda n: 2 * (jnp.arange(n) + 0.5) / n - 1
  y, x = jnp.meshgrid(centre(rows), centre(columns), indexing="ij")
  at = jnp.stack([y.ravel(), x.ravel()], -1)
  frequency = theta ** -jnp.arange(0, 1, 4 / width)
  angles = 2 * jnp.pi * at[:, :, None] * frequency
  return jnp.tile(angles.reshape(1, rows * columns, -1), 2)


def rules_of(config: Dino) -> tuple[Rule, ...]:
  """Table of public names, as in the published files."""
  return _v3_rules(config) if config.theta else _v2_rules(config)


def _v2_rules(config: Dino) -> tuple[Rule, ...]:
  layers = range(config.size.depth)
  ours, at = "stack/layers", "encoder.layer.{}"
  names = ("query", "key", "value")
  up = (
    ("fc1", "fc2") if not config.size.gated else ("weights_in", "weights_out")
  )
  rules = (
    Rule("class", "embeddings.cls_token"),
    Rule("", "embeddings.mask_token"),  # of pretraining
    Rule("position", "embeddings.position_embeddings"),
    *conv("patches/embedding", "embeddings.patch_embeddings.projection"),
    *norm(f"{ours}/norm_1", f"{at}.norm1", layers),
    *linear(
      f"{ours}/qkv",
      tuple(f"{at}.attention.attention.{n}" for n in names),
      layers,
    ),
    *linear(f"{ours}/out", f"{at}.attention.output.dense", layers),
    Rule(f"{ours}/scale_1", f"{at}.layer_scale1.lambda1", layers=layers),
    *norm(f"{ours}/norm_2", f"{at}.norm2", layers),
    *linear(f"{ours}/up", f"{at}.mlp.{up[0]}", layers),
    *linear(f"{ours}/down", f"{at}.mlp.{up[1]}", layers),
    Rule(f"{ours}/scale_2", f"{at}.layer_scale2.lambda1", layers=layers),
    *norm("norm", "layernorm"),
  )
  if config.registers:
    rules += (Rule("registers", "embeddings.register_tokens"),)
  return rules


def _v3_rules(config: Dino) -> tuple[Rule, ...]:
  layers = range(config.size.depth)
  ours, at = "stack/layers", "layer.{}"
  attention = tuple(f"{at}.attention.{x}_proj" for x in "qkv")
  biases = tuple(f"{at}.attention.{x}_proj.bias" for x in "qv")
  pair = Form(lambda x: x.reshape(2, -1), lambda x: x.reshape(-1))
  gate = (f"{at}.mlp.gate_proj",) if config.size.gated else ()
  return (
    Rule("class", "embeddings.cls_token"),
    Rule("", "embeddings.mask_token"),
    Rule("registers", "embeddings.register_tokens"),
    *conv("patches/embedding", "embeddings.patch_embeddings"),
    *norm(f"{ours}/norm_1", f"{at}.norm1", layers),
    *linear(f"{ours}/qkv", attention, layers, bias=False),
    Rule(f"{ours}/qv_bias", biases, pair, layers),
    *linear(f"{ours}/out", f"{at}.attention.o_proj", layers),
    Rule(f"{ours}/scale_1", f"{at}.layer_scale1.lambda1", layers=layers),
    *norm(f"{ours}/norm_2", f"{at}.norm2", layers),
    *linear(f"{ours}/up", (*gate, f"{at}.mlp.up_proj"), layers),
    *linear(f"{ours}/down", f"{at}.mlp.down_proj", layers),
    Rule(f"{ours}/scale_2", f"{at}.layer_scale2.lambda1", layers=layers),
    *norm("norm", "norm"),
  )


_SHARED = clip_layouts.VISION_FIELDS
_UNREAD = (
  *_SHARED.unread, "drop_path_rate", "layerscale_value",  # of training
  # of the backbone's feature maps, unused here
  "apply_layernorm", "out_features", "out_indices", "reshape_hidden_states",
  "stage_names",
)  # fmt: skip
_V2_FIELDS = fields.Fields(
  read=(*_SHARED.read, "mlp_ratio", "num_register_tokens", "use_swiglu_ffn"),
  fixed={**_SHARED.fixed, "qkv_bias": (True,)},
  unread=(*_UNREAD, "use_mask_token"),
)  # fmt: skip
_V3_FIELDS = fields.Fields(
  read=(*_SHARED.read, "num_register_tokens", "rope_theta", "use_gated_mlp"),
  fixed={
    **_SHARED.fixed, "query_bias": (True,), "key_bias": (False,),
    "value_bias": (True,), "proj_bias": (True,), "mlp_bias": (True,),
  },
  # Positions are jittered only in training.
  unread=(*_UNREAD, "pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift"),
)  # fmt: skip


def config_of(record: Mapping[str, Any]) -> Dino:
  """Geometry from `config.json`.

  Raises:
    UserError: another architecture.
  """
  kind = record.get("model_type")
  if kind in ("dinov2", "dinov2_with_registers"):
    return _config_of_v2(record)
  if kind != "dinov3_vit":
    raise UserError(f'config.json describes a "{kind}", not a DINO tower')
  fields.check(record, _V3_FIELDS, of="config.json")
  full: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    **record,
  }
  gated = bool(full.get("use_gated_mlp", False))
  size = dataclasses.replace(
    clip_layouts.size_of(full, {}), gated=gated, scaled=True, key_bias=False
  )
  count = functools.partial(hub.field, full, kind=int, of="config.json")
  return Dino(
    size, count("patch_size"), count("image_size", default=224),
    full.get("num_register_tokens", 0), float(full.get("rope_theta", 100.0)),
  )  # fmt: skip


def _config_of_v2(record: Mapping[str, Any]) -> Dino:
  fields.check(record, _V2_FIELDS, of="config.json")
  full: dict[str, Any] = {
    "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4, **record,
  }  # fmt: skip
  count = functools.partial(hub.field, full, kind=int, of="config.json")
  ratio = hub.field(full, "mlp_ratio", float, of="config.json")
  mlp = int(count("hidden_size") * ratio)
  gated = bool(full.get("use_swiglu_ffn", False))
  if gated:  # two thirds, rounded up to a multiple of 8
    mlp, full["hidden_act"] = (int(mlp * 2 / 3) + 7) // 8 * 8, "silu"
  size = clip_layouts.size_of(full | {"intermediate_size": mlp}, {})
  with_registers = full["model_type"] == "dinov2_with_registers"
  return Dino(
    dataclasses.replace(size, gated=gated, scaled=True),
    count("patch_size", default=14),
    count("image_size", default=518),
    full.get("num_register_tokens", 4) if with_registers else 0,
  )


def shapes(config: Dino, dtype: str = "float32") -> Any:
  """The parameters as `jax.ShapeDtypeStruct`."""
  image = jax.ShapeDtypeStruct((1, config.image, config.image, 3), jnp.float32)
  variables = jax.eval_shape(DinoModel(config).init, jax.random.key(0), image)
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  return jax.tree.map(as_dtype, variables["params"])


def describe(spec: os.PathLike[str] | str) -> Dino:
  """Geometry of a public checkpoint."""
  record = fields.read(spec)
  with hub.beside(spec):
    return config_of(record)


def load(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Dino, Any]:
  """(architecture, parameters) of a public checkpoint.

  Raises:
    UserError: see `config_of` and `convert.load_params`.
  """
  config = describe(spec)
  like = shapes(config, dtype)
  return config, convert.load_params(spec, rules_of(config), like)
