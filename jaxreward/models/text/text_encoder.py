"""Text encoders of SD3, FLUX and Wan: one or several text towers.

Order, padding and layers follow the public pipelines:

  SD3   tokens   [penultimate CLIP-L | penultimate CLIP-G | 0 up to T5's width]
                 followed by T5's states; 77 + 256 places
        pooled   [projected CLIP-L | projected CLIP-G]
  FLUX  tokens   T5's states, 512 places (256 for schnell)
        pooled   CLIP-L, not projected
  Wan   tokens   umT5's states, 512 places, zero after the end of the text

SD3 and FLUX do not mask padding: they were trained with it.
"""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models import convert, fields, hub
from jaxreward.models.convert import Rule
from jaxreward.models.text import t5
from jaxreward.models.text.t5 import T5
from jaxreward.models.vision import clip, clip_layouts, tower
from jaxreward.models.vision.clip import Text
from jaxreward.types import Array, ArrayLike, Params

Tokens = Int[ArrayLike, "B L"]


@dataclasses.dataclass(frozen=True)
class Encoders:
  """Text towers of a pipeline, in its order; each is optional.

  Attributes:
    clips: CLIP-L for FLUX; CLIP-L and CLIP-G for SD3.
    t5: the T5 encoder.
    dtype: of the products.
  """

  clips: tuple[Text, ...]
  t5: T5 | None
  dtype: Any = jnp.float32


_CLIP_RULES = (
  *tower.sharding_rules("stack"),
  (r"^(token|position)$", (None, "fsdp")),
  (r"^norm/(scale|bias)$", ()),
  (r"^projection/kernel$", ("fsdp", None)),
)
SHARDING_RULES: tower.Rules = (
  *((p.replace("^", r"^clip_\d/", 1), axes) for p, axes in _CLIP_RULES),
  *((p.replace("^", "^t5/", 1), axes) for p, axes in t5.SHARDING_RULES),
)


def _clip(encoders: Encoders, params: Params, i: int, tokens: Tokens):
  net = clip.TextTower(encoders.clips[i], encoders.dtype, keep=True)
  outputs: Any = net.apply({"params": params[f"clip_{i}"]}, tokens)
  return outputs


def _t5(encoders: Encoders, params: Params, tokens: Tokens) -> Array:
  if encoders.t5 is None:
    raise UserError("there is no T5 encoder; name its weights")
  net = t5.T5Encoder(encoders.t5, encoders.dtype)
  states: Any = net.apply({"params": params["t5"]}, tokens)
  return states


def encode_sd3(
  encoders: Encoders,
  params: Params,
  clip_tokens: tuple[Tokens, Tokens],
  t5_tokens: Int[ArrayLike, "B M"] | None,
  *,
  places: int = 256,
  width: int = 4096,
) -> tuple[Float[Array, "B N D"], Float[Array, "B E"]]:
  """(tokens, pooled) for SD3.

  Args:
    encoders: CLIP-L, CLIP-G and possibly T5.
    params: {"clip_0", "clip_1", "t5"}.
    clip_tokens: ids of both, padded to 77 by their own padding.
    t5_tokens: ids for T5, padded; None gives zeros instead of its states.
    places: number of those zero tokens.
    width: of those zeros; unused with T5.
  """
  outputs = [
    _clip(encoders, params, i, ids) for i, ids in enumerate(clip_tokens)
  ]
  clip_states = jnp.concatenate([f["penultimate"] for f in outputs], -1)
  pooled = jnp.concatenate([f["embedding"] for f in outputs], -1)
  if t5_tokens is None:
    t5_states = jnp.zeros(
      (clip_states.shape[0], places, width), clip_states.dtype
    )
  else:
    t5_states = _t5(encoders, params, t5_tokens)
  clip_states = jnp.pad(
    clip_states,
    ((0, 0), (0, 0), (0, t5_states.shape[-1] - clip_states.shape[-1])),
  )
  return jnp.concatenate([clip_states, t5_states], 1), pooled


def encode_flux(
  encoders: Encoders,
  params: Params,
  clip_tokens: Tokens,
  t5_tokens: Int[ArrayLike, "B M"],
) -> tuple[Float[Array, "B N D"], Float[Array, "B E"]]:
  """(tokens, pooled) for FLUX; arguments as in `encode_sd3`."""
  pooled = _clip(encoders, params, 0, clip_tokens)["pooled"]
  return _t5(encoders, params, t5_tokens), pooled


def encode_wan(
  config: T5,
  params: Params,
  tokens: Int[ArrayLike, "B L"],
  mask: Bool[ArrayLike, "B L"],
  dtype: Any = jnp.float32,
) -> Float[Array, "B L D"]:
  """Text states for Wan, from the output of `tokenize_wan`."""
  net = t5.T5Encoder(config, dtype)
  states: Any = net.apply({"params": params}, tokens, mask)
  return jnp.where(jnp.asarray(mask)[..., None], states, 0)


def tokenize_wan(
  tokenizer: Any, texts: Sequence[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
  """(int32 ids, bool mask), each [B, length], of umT5.

  Mojibake is fixed, HTML entities are unescaped and white space is collapsed,
  as in training.

  Args:
    tokenizer: of transformers.
    texts: B prompts.
    length: texts are truncated and padded to it.

  Raises:
    UserError: ftfy is not installed.
  """
  encoding = tokenizer(
    [_clean(text) for text in texts],
    padding="max_length", truncation=True, max_length=length,
  )  # fmt: skip
  ids = np.asarray(encoding["input_ids"], np.int32)
  return ids, np.asarray(encoding["attention_mask"], bool)


def _clean(text: str) -> str:
  try:
    import ftfy
  except ImportError as error:
    raise UserError(
      'Wan was trained on texts repaired with ftfy; pip install "jaxreward[text]"'
    ) from error
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split())


def load(
  pipeline: os.PathLike[str] | str,
  *,
  dtype: str = "float32",
  with_t5: bool = True,
) -> tuple[Encoders, Params]:
  """Text towers of a pipeline's folder or hub id.

  Sub-folders as diffusers writes them: "text_encoder", "text_encoder_2", ...,
  each a CLIP text tower or a T5 encoder.

  Args:
    pipeline: the folder, or "org/name".
    dtype: of parameters and products.
    with_t5: False skips T5, which is optional for SD3.

  Raises:
    UserError: a sub-folder is missing or holds another model.
  """
  clips: list[Text] = []
  params: dict[str, Any] = {}
  config = None
  for place in ("text_encoder", "text_encoder_2", "text_encoder_3"):
    spec = f"{pipeline}:{place}"
    if place == "text_encoder_3" and config is not None:
      break  # FLUX has two
    record = fields.read(spec)
    kind = record.get("model_type")
    if kind == "t5":
      config = t5.config_of(record)
      if with_t5:
        config, params["t5"] = t5.load(spec, dtype=dtype)
    elif kind == "clip_text_model":
      text, params[f"clip_{len(clips)}"] = load_clip_text(spec, dtype=dtype)
      clips.append(text)
    else:
      raise UserError(
        f'{spec} holds a "{kind}", neither CLIP\'s text tower nor T5'
      )
  t5_config = config if with_t5 else None
  return Encoders(tuple(clips), t5_config, jnp.dtype(dtype)), params


def load_clip_text(
  spec: os.PathLike[str] | str, *, dtype: str = "float32"
) -> tuple[Text, Params]:
  """(architecture, parameters) of a stand-alone CLIP text tower."""
  tensors = hub.open_weights(spec)
  projection = None if "text_projection.weight" in tensors else 0
  text = clip_layouts.text_of(hub.read_config(spec), projection)
  net = clip.TextTower(text)
  tokens = jax.ShapeDtypeStruct((1, text.length), jnp.int32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), tokens)["params"]
  as_dtype = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
  # Old files prefix every name with "text_model.", new ones do not.
  at = (
    "text_model." if any(n.startswith("text_model.") for n in tensors) else ""
  )
  rules: tuple[Rule, ...] = clip_layouts.hf_text(text, "", at)
  return text, convert.load_params(spec, rules, jax.tree.map(as_dtype, shapes))
