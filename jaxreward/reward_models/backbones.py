"""Backbones: features of images and texts.

A backbone is a function of its options that returns a `Backbone`; weights are
only read when its `pretrained` is called.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError, nearest, require_counts
from jaxreward.models.policies import scene_dit
from jaxreward.models.vision import (
  clip,
  clip_layouts,
  encoders,
  public_configs,
  scene_reward,
  siglip,
)
from jaxreward.models.vision.tower import Size
from jaxreward.reward_models.contract import Backbone, Features, Public
from jaxreward.types import Array, ArrayLike, Params

BYTES = 258  # a token per byte, padding, and the end
_SMALL = Size(32, 2, 2, 64)
TINY_CLIP = clip.Clip(
  clip.Text(_SMALL, BYTES, 64, BYTES - 1, 16), clip.Vision(_SMALL, 9, 36, 16)
)
TINY_SIGLIP = siglip.Siglip(_SMALL, _SMALL, BYTES, 64, 9, 36)


@functools.wraps(scene_reward.make_trunk, assigned=())
@functools.lru_cache(maxsize=8)  # the same functions are traced once
def scenes(**options: Any) -> Backbone:
  """The scene policy's trunk; its options are those of `make_trunk`."""
  trunk = scene_reward.make_trunk(**options)

  def features(
    params: Params, images: ArrayLike, tokens: ArrayLike
  ) -> Features:
    joint = trunk.features(params, images, tokens)
    # The last third depends on the words alone.
    return {"joint": joint, "prompt": joint[:, 0, -(joint.shape[-1] // 3) :]}

  return Backbone(
    trunk.init,
    features,
    trunk.image_shape,
    scene_dit.LANGUAGES[options.get("language", "scenes")][-1],
    sharding_rules=trunk.sharding_rules,
    from_policy=scene_reward.init_from_policy,
  )


def clip_towers(
  *,
  weights: str = "",
  size: str = "",
  tokenizer: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Backbone:
  """A CLIP pair with public weights or random parameters.

  Args:
    weights: folder, file or hub id; see `models.hub.resolve`. Empty for random
      parameters.
    size: a name of `clip.SIZES`, or "tiny", for random parameters or weights
      without a config beside them.
    tokenizer: its folder or hub id; that of the weights if empty, and without
      weights a token per byte.
    dtype: of parameters and compute, "float32" or "bfloat16".
    microbatch: images that go through the tower at once; 0 for all.
  """
  layout = "hf"
  if weights:
    towers = encoders.load(
      weights, size=size, dtype=dtype, microbatch=microbatch, read=False
    )
    config, layout = clip_layouts.describe(weights, size)
    pretrained = lambda: clip_layouts.load(weights, size=size, dtype=dtype)[1]
  else:
    config = size_of(size, {"tiny": TINY_CLIP, **clip.SIZES})
    towers = encoders.drawn_clip(config, dtype, microbatch)
    pretrained = None
  net = clip.ClipModel(config, jnp.dtype(dtype))
  side = config.vision.image if config.vision else 0
  backbone = _pair(net, towers, side, weights, tokenizer, dtype, pretrained)
  rules = clip_layouts.rules_of(config, layout)
  public = Public(rules, public_configs.of_clip(config, layout))
  if layout == "open_clip":
    public = dataclasses.replace(
      public, stem="open_clip_model", config_name=clip_layouts.OPEN_CLIP_CONFIG
    )
  return dataclasses.replace(backbone, public=public)


def siglip_towers(
  *,
  weights: str = "",
  size: str = "",
  tokenizer: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Backbone:
  """A SigLIP pair of either version, with public or random parameters.

  Args:
    weights: see `clip_towers`.
    size: a name of `siglip.SIZES`, or "tiny", for random parameters.
    tokenizer: see `clip_towers`.
    dtype: see `clip_towers`.
    microbatch: see `clip_towers`.
  """
  if weights:
    towers = encoders.load(
      weights, dtype=dtype, microbatch=microbatch, read=False
    )
    config = siglip.describe(weights)
    pretrained = lambda: siglip.load(weights, dtype=dtype)[1]
  else:
    config = size_of(size, {"tiny": TINY_SIGLIP, **siglip.SIZES})
    if config.flexible:
      raise UserError(f"size={size}: a drawn pair takes images of one size")
    towers = encoders.drawn_siglip(config, dtype, microbatch)
    pretrained = None
  net = siglip.SiglipModel(config, jnp.dtype(dtype))
  backbone = _pair(
    net, towers, config.image, weights, tokenizer, dtype, pretrained
  )
  public = Public(siglip.rules_of(config), public_configs.of_siglip(config))
  return dataclasses.replace(backbone, public=public)


def size_of(name: str, known: Mapping[str, Any]) -> Any:
  """The geometry with this name.

  Raises:
    UserError: an unknown name.
  """
  if name not in known:
    raise UserError(
      f'reward_model.backbone.size="{name}" is not known{nearest(name, known)};'
      " without weights a"
      f" backbone is one of {', '.join(known)}"
    )
  return known[name]


def _pair(
  net: Any,
  towers: encoders.Weights,
  side: int,
  weights: str,
  tokenizer: str,
  dtype: str,
  pretrained: Callable[[], Params] | None,
) -> Backbone:
  encoder = towers.encoder
  require_counts(
    "config.reward_model.backbone.", least=0, microbatch=encoder.microbatch
  )
  if not towers.length or encoder.logits is None:
    raise UserError(f"{weights} has no text tower; use a CLIP or SigLIP pair")

  def init(key: Array) -> Params:
    tokens = jnp.zeros((1, towers.length), jnp.int32)
    images = jnp.full((1, side, side, 3), 0.5)
    return drawn(net, key, dtype, tokens, encoder.prepared(images))

  def features(
    params: Params, images: ArrayLike, tokens: ArrayLike
  ) -> Features:
    towers = {name: x for name, x in params.items() if name != "direction"}
    image, states = image_states(encoder, towers, images)
    assert encoder.words is not None
    text, words = encoder.words(towers, jnp.asarray(tokens))
    text = encoders.moved(encoders.unit(text), params)
    cosine = jnp.einsum("pge,pe->pg", image, text)
    assert encoder.logits is not None
    # Scales each part to unit mean square, so that one learning rate fits.
    scale = image.shape[-1] ** 0.5
    wide = jnp.broadcast_to(text[:, None], image.shape)
    parts = (scale * image, scale * wide, scale**2 * image * wide)
    return {
      "joint": jnp.concatenate(parts, -1), "image": image, "text": text,
      "prompt": text, "logit": encoder.logits(params, cosine),
      "cross": encoder.logits(params, jnp.einsum("pge,qe->pgq", image, text)),
      "states": states, "words": words, "word_mask": is_word(tokens),
    }  # fmt: skip

  tokenize = tokenizer_of(
    weights, tokenizer, towers.length, wording=towers.wording,
    literal=towers.literal,
  )  # fmt: skip
  gives = (
    "joint", "prompt", "image", "text", "logit", "cross", "states", "words",
  )  # fmt: skip
  return Backbone(
    init, features, (side, side, 3), towers.length, tokenize, pretrained,
    towers.rules, gives,
    first=r"^(text/(token|position)|vision/(class|position|patches|norm_in))\b",
  )  # fmt: skip


def drawn(net: Any, key: Array, dtype: str, *inputs: Any) -> Params:
  """Random parameters of a network."""
  params = net.init(key, *inputs)["params"]
  return jax.tree.map(lambda x: x.astype(dtype), params)


def tokenizer_of(
  weights: str, tokenizer: str, length: int, **how: Any
) -> Callable[[Sequence[str]], np.ndarray]:
  """Texts -> token ids: of public weights, or without any a token per byte.

  Args:
    weights: of the towers; empty if they are random.
    tokenizer: folder or hub id; that of the weights if empty.
    length: of the ids.
    **how: options of `encoders.tokenizer`.
  """
  if tokenizer or weights:
    return encoders.tokenizer(weights or tokenizer, length, tokenizer, **how)
  return lambda texts: byte_tokens(texts, length)


def image_states(
  encoder: encoders.Encoder, params: Params, images: ArrayLike
) -> tuple[Array, Array]:
  """(unit features [P, G, E], tokens [P, G, N, D]) of images in [0, 1]."""

  def encode(x: Array) -> tuple[Array, Array]:
    assert encoder.both is not None
    features, states = encoder.both(params, encoder.prepared(x))
    return encoders.unit(features), states

  images = jnp.asarray(images)
  rows = images.reshape(-1, *images.shape[2:])
  outputs = encoders.in_chunks(encode, rows, encoder.microbatch)
  return jax.tree.map(
    lambda x: x.reshape(*images.shape[:2], *x.shape[1:]), outputs
  )


def is_word(tokens: ArrayLike) -> Array:
  """Which ids [P, L] are not padding: up to the last id that differs.

  The padding repeats the last id, or there is none.
  """
  tokens = jnp.asarray(tokens)
  differs = tokens != tokens[:, -1:]
  before = jnp.flip(jnp.cumsum(jnp.flip(differs, 1), 1), 1) > 0
  return before | ~differs.any(1, keepdims=True)


def byte_tokens(texts: Sequence[str], length: int) -> np.ndarray:
  """A token per byte of UTF-8, int32 [P, length]: 1 to 256, then 257; 0 pads."""
  ids = np.zeros((len(texts), length), np.int32)
  for row, text in enumerate(texts):
    data = list(text.lower().encode())[: length - 1]
    ids[row, : len(data)] = np.array(data, np.int32) + 1
    ids[row, len(data)] = BYTES - 1
  return ids
