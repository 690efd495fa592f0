"""Encoders for rewards: images and texts in, unit vectors out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, one_line, require_counts
from jaxreward.models import hub
from jaxreward.models.vision import (
  clip,
  clip_layouts,
  dino,
  preprocess,
  siglip,
  words,
)
from jaxreward.types import Array, ArrayLike, Params


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A tower, or a pair with a shared space, as pure functions.

  Attributes:
    images: (params, prepared images) -> features [B, E].
    prepared: images [B, H, W, 3] in [0, 1] -> what `images` takes.
    text: (params, tokens [P, L]) -> features [P, E]; None for image towers.
    logits: (params, cosines) -> logits, as in the pair's training.
    patches: (params, normalised images) -> patch features [B, N, E].
    both: (params, prepared images) -> (features [B, E], tokens [B, N, D]).
    words: (params, tokens [P, L]) -> (features [P, E], states [P, L, D]).
    microbatch: images per pass through the tower; 0 for all.
  """

  images: Callable[[Params, Any], Array]
  prepared: Callable[[Array], Any]
  text: Callable[[Params, Array], Array] | None = None
  logits: Callable[[Params, Array], Array] | None = None
  patches: Callable[[Params, Array], Array] | None = None
  both: Callable[[Params, Any], tuple[Array, Array]] | None = None
  words: Callable[[Params, Array], tuple[Array, Array]] | None = None
  microbatch: int = 0


@dataclasses.dataclass(frozen=True)
class Weights:
  """An encoder with its weights and tokenizer settings.

  Attributes:
    encoder: the functions.
    params: their parameters.
    rules: sharding rules of the parameters.
    length: tokens of a text; 0 without a text tower.
    wording: normalises text as in the tower's training.
    literal: special tokens that occur in a prompt are plain text.
  """

  encoder: Encoder
  params: Params
  rules: Any
  length: int = 0
  wording: Callable[[str], str] = str
  literal: bool = False


def load(
  weights: str,
  *,
  size: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
  texts: bool = True,
  padded: bool = False,
  read: bool = True,
) -> Weights:
  """Loads a published tower or pair of the kind named in its config.

  Args:
    weights: folder, file or hub id; see `hub.resolve`.
    size: a name of `clip.SIZES`, for CLIP weights without a config.
    dtype: of parameters and products, "float32" or "bfloat16".
    microbatch: images per pass through the tower; 0 for all.
    texts: False skips the text tower of CLIP.
    padded: CLIP takes images padded with black instead of a centre crop.
    read: False gives shapes instead of the parameters.

  Raises:
    UserError: unreadable weights, or another dtype.
  """
  if dtype not in ("float32", "bfloat16"):
    raise UserError(f"dtype={dtype}: known are float32 and bfloat16")
  kind = "" if size else str(hub.read_config(weights).get("model_type", ""))
  if kind in ("siglip", "siglip2"):
    return _load_siglip(weights, dtype, microbatch, read)
  if kind.startswith("dino"):
    return _load_dino(weights, dtype, microbatch, read)
  return _load_clip(weights, size, dtype, microbatch, texts, padded, read)


def drawn_clip(config: clip.Clip, dtype: str, microbatch: int) -> Weights:
  """A CLIP pair without weights, with shapes instead of parameters."""
  assert config.vision and config.text
  side = config.vision.image
  prepared = preprocess.Preprocess((side, side), side)
  params = clip_layouts.shapes(config, dtype)
  return _clip_pair(config, params, dtype, prepared, microbatch)


def drawn_siglip(config: siglip.Siglip, dtype: str, microbatch: int) -> Weights:
  """A SigLIP pair without weights, with shapes instead of parameters."""
  prepared, params = _plain_for_siglip(config), siglip.shapes(config, dtype)
  return _siglip_pair(config, params, dtype, prepared, microbatch)


def drawn_dino(config: dino.Dino, dtype: str, microbatch: int) -> Weights:
  """A DINO tower without weights, with shapes instead of parameters."""
  side = min(config.image, 16 * config.patch)
  prepared = dataclasses.replace(
    _prepared_for_dino(config), size=(side, side), edge=side
  )
  return _dino_tower(
    config, dino.shapes(config, dtype), dtype, prepared, microbatch
  )


def _clip_pair(config, params, dtype, prepared, microbatch) -> Weights:
  net = clip.ClipModel(config, jnp.dtype(dtype))

  def both(p, x):
    outputs = _applied(net, p, x, "encode_image")
    return outputs["embedding"], outputs["states"]

  def words(p, t):
    outputs = _applied(net, p, t, "encode_text")
    return outputs["embedding"], outputs["last"]

  encoder = Encoder(
    lambda p, x: both(p, x)[0], prepared, microbatch=microbatch, both=both
  )
  if config.text is None:
    return Weights(encoder, params, clip.SHARDING_RULES)
  encoder = dataclasses.replace(
    encoder,
    text=lambda p, t: words(p, t)[0],
    words=words,
    logits=lambda p, c: jnp.exp(p["logit_scale"].astype(jnp.float32)) * c,
  )
  return Weights(encoder, params, clip.SHARDING_RULES, config.text.length)


def _load_clip(
  weights, size, dtype, microbatch, texts, padded, read
) -> Weights:
  config, layout = clip_layouts.describe(weights, size)
  if read:
    config, params = clip_layouts.load(
      weights, size=size, dtype=dtype, texts=texts
    )
  else:
    params = clip_layouts.shapes(config, dtype)
  # Preprocess as the library that saved the weights does.
  is_open_clip = layout == "open_clip"
  if config.vision is None or (texts and config.text is None):
    raise UserError(f"{weights} lacks a tower of CLIP that is needed")
  side = config.vision.image
  plain = preprocess.Preprocess(
    (side, side), 0 if padded else side, padded=padded, levels=not padded,
    nearest=is_open_clip,
  )  # fmt: skip
  prepared = _prepared_for_clip(weights, plain, is_open_clip)
  pair = _clip_pair(config, params, dtype, prepared, microbatch)
  if config.text is None:
    return pair
  wording = words.cleaner() if is_open_clip or padded else str
  return dataclasses.replace(pair, wording=wording, literal=True)


def _prepared_for_clip(
  weights: str, default: preprocess.Preprocess, is_open_clip: bool
) -> preprocess.Preprocess:
  name = clip_layouts.OPEN_CLIP_CONFIG
  record = hub.read_config(weights, name) if is_open_clip else {}
  if not record:
    return preprocess.read(weights, default)
  return preprocess.of_open_clip(record, default, f"{weights}: {name}")


def _config_and_params(tower, weights, dtype, read) -> tuple[Any, Params]:
  """Config and parameters of a tower; shapes instead unless `read`."""
  if read:
    return tower.load(weights, dtype=dtype)
  config = tower.describe(weights)
  return config, tower.shapes(config, dtype)


def _load_siglip(weights, dtype, microbatch, read) -> Weights:
  config, params = _config_and_params(siglip, weights, dtype, read)
  prepared = _prepared_for_siglip(weights, config)
  return _siglip_pair(config, params, dtype, prepared, microbatch)


def _siglip_pair(config, params, dtype, prepared, microbatch) -> Weights:
  net = siglip.SiglipModel(config, jnp.dtype(dtype))

  def logits(p, cosines):
    as_float = lambda name: p[name].astype(jnp.float32)[0]
    return jnp.exp(as_float("logit_scale")) * cosines + as_float("logit_bias")

  encoder = Encoder(
    lambda p, x: _applied(net, p, x, "encode_image"),
    prepared,
    lambda p, t: _applied(net, p, t, "encode_text"),
    logits,
    microbatch=microbatch,
    both=lambda p, x: _applied(net, p, x, "image_states"),
    words=lambda p, t: _applied(net, p, t, "text_states"),
  )
  # Trained on lower case, which not all of its tokenizers apply.
  return Weights(
    encoder, params, siglip.SHARDING_RULES, config.length, str.lower
  )


def _plain_for_siglip(config: siglip.Siglip) -> preprocess.Preprocess:
  half, size = (0.5, 0.5, 0.5), (config.image,) * 2
  method = "linear" if config.flexible else "cubic"
  return preprocess.Preprocess(size, 0, method, half, half)


def _prepared_for_siglip(
  weights: str, config: siglip.Siglip
) -> Callable[[Array], Any]:
  plain = _plain_for_siglip(config)
  if not config.flexible:
    return preprocess.read(weights, plain)
  record = hub.read_config(weights, "preprocessor_config.json")
  of = f"{weights}: preprocessor_config.json"
  plain = preprocess.of_record(record, plain, of)
  most = hub.field(record, "max_num_patches", int, of=of, default=256)
  patch = record.get("patch_size", config.patch)
  if patch != config.patch:
    raise UserError(
      f"{of} makes patches of {patch} pixels, the tower takes patches of"
      f" {config.patch}"
    )

  def prepared(images: Array) -> siglip.Patches:
    height, width = images.shape[1:3]
    size = siglip.size_within(height, width, patch, most)
    resized = dataclasses.replace(plain, size=size)(images)
    return siglip.cut(resized, config, most)

  return prepared


def _load_dino(weights, dtype, microbatch, read) -> Weights:
  config, params = _config_and_params(dino, weights, dtype, read)
  record = hub.read_config(weights, "preprocessor_config.json")
  prepared = preprocess.of_record(
    record, _prepared_for_dino(config), f"{weights}: preprocessor_config.json"
  )
  return _dino_tower(config, params, dtype, prepared, microbatch)


def _prepared_for_dino(config: dino.Dino) -> preprocess.Preprocess:
  mean, std = preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD
  side = 16 * config.patch if not config.theta else config.image
  edge = 0 if config.theta else side * 256 // 224
  method = "linear" if config.theta else "cubic"
  # Version 3 resizes after scaling to [0, 1], without rounding.
  return preprocess.Preprocess(
    (side, side), edge, method, mean, std, levels=not config.theta
  )


def _dino_tower(config, params, dtype, prepared, microbatch) -> Weights:
  net = dino.DinoModel(config, jnp.dtype(dtype))

  def both(p, x):
    outputs = _applied(net, p, x)
    return outputs["pooled"], outputs["patches"]

  encoder = Encoder(
    lambda p, x: both(p, x)[0],
    prepared,
    patches=lambda p, x: both(p, x)[1],
    both=both,
    microbatch=microbatch,
  )
  return Weights(encoder, params, dino.SHARDING_RULES)


def _applied(
  net: Any, params: Params, x: Any, method: str | None = None
) -> Any:
  return net.apply({"params": params}, x, method=method)


def unit(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
  """Rows of length 1, in float32."""
  x = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x), -1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def goal_score(
  features: Float[Array, "P G E"],
  goal: Float[Array, "P E"],
  base: Float[Array, "*P E"],
  strength: float,
) -> Float[Array, "P G"]:
  """1 - |a P (x - g) + (1 - a) (x - g)|^2 / 2, with P onto the line from b to g.

  Args:
    features: x, of length 1.
    goal: g, of length 1.
    base: b, of length 1.
    strength: a, in [0, 1].
  """
  direction = unit(goal - base)[:, None]
  offset = features - goal[:, None]
  along = jnp.sum(offset * direction, -1, keepdims=True) * direction
  blend = strength * along + (1 - strength) * offset
  return 1 - jnp.sum(jnp.square(blend), -1) / 2


def directed(
  text: Float[Array, "P E"],
  vector: Float[Array, "E"],
  strength: ArrayLike | float,
) -> Float[Array, "P E"]:
  """e- + strength (e+ - e-), e+- = unit(text +- vector): D2-Align's guided text.

  A vector of zeros changes nothing. Its length is not that of a unit vector
  (unverified). https://arxiv.org/abs/2512.24146
  """
  more, less = unit(text + vector), unit(text - vector)
  return less + strength * (more - less)


def moved(text: Float[Array, "P E"], params: Params) -> Float[Array, "P E"]:
  """Unit text features, `directed` where the parameters hold a "direction"."""
  if "direction" not in params:
    return text
  return directed(text, **params["direction"])


def in_chunks(fn: Callable[[Any], Any], rows: Any, size: int) -> Any:
  """fn(rows) in chunks; rows and results are arrays or trees of arrays.

  Every chunk takes rows spread over the batch, so that on a mesh, which shards
  contiguous rows, every device works on every chunk.
  """
  require_counts("", least=0, microbatch=size)
  count = jax.tree.leaves(rows)[0].shape[0]
  if not size or count <= size:
    return fn(rows)
  chunks = -(-count // size)
  pad = size * chunks - count

  def to_chunks(x: Array) -> Array:
    x = jnp.concatenate([x, jnp.repeat(x[:1], pad, 0)])
    return x.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)

  def from_chunks(x: Array) -> Array:
    x = x.swapaxes(0, 1)
    return x.reshape(size * chunks, *x.shape[2:])[:count]

  return jax.tree.map(
    from_chunks, jax.lax.map(fn, jax.tree.map(to_chunks, rows))
  )


def image_features(
  encoder: Encoder,
  params: Params,
  images: Float[ArrayLike, "*B H W 3"],
  *,
  places: bool = False,
) -> tuple[Array, Bool[Array, "*B"]]:
  """Unit features of images in [0, 1], and which images are finite.

  Args:
    encoder: the tower.
    params: its parameters.
    images: in [0, 1].
    places: patch features [*B, N, E] instead of image features.
  """
  tower = encoder.patches if places else encoder.images
  if tower is None:
    raise UserError(
      "these weights have no features of places; use a DINO tower"
    )
  images = jnp.asarray(images)
  usable = jnp.isfinite(images).all((-3, -2, -1))
  rows = jnp.where(usable[..., None, None, None], images, 0.0)
  rows = rows.reshape(-1, *images.shape[-3:])
  encode = lambda x: unit(tower(params, encoder.prepared(x)))
  features = in_chunks(encode, rows, encoder.microbatch)
  return features.reshape(*images.shape[:-3], *features.shape[1:]), usable


def text_features(
  encoder: Encoder, params: Params, tokens: ArrayLike
) -> Float[Array, "P E"]:
  """Unit features of token ids [P, L]."""
  if encoder.text is None:
    raise UserError("these weights have no text tower")
  towers = {name: x for name, x in params.items() if name != "direction"}
  return moved(unit(encoder.text(towers, jnp.asarray(tokens))), params)


def tokenizer(
  weights: os.PathLike[str] | str,
  length: int,
  other: str = "",
  *,
  wording: Callable[[str], str] = str,
  literal: bool = False,
) -> Callable[[Sequence[str]], np.ndarray]:
  """Texts -> int32 [P, length], by the tokenizer beside the weights.

  Args:
    weights: see `hub.resolve`; for a file, its folder.
    length: texts are truncated and padded to it.
    other: folder or hub id of the tokenizer, if it is elsewhere.
    wording: applied to texts first, such as `words.clean`.
    literal: special tokens in a text are plain text. Some tokenizers pad with
      "!", which would otherwise be read as padding.

  Raises:
    UserError: transformers is not installed, or there is no tokenizer.
  """
  tokens = pretrained(other or weights)
  marks = {"split_special_tokens": True} if literal else {}

  def ids(texts: Sequence[str]) -> np.ndarray:
    encoding = tokens(
      [wording(text) for text in texts],
      padding="max_length", truncation=True, max_length=length, **marks,
    )  # fmt: skip
    return np.asarray(encoding["input_ids"], np.int32)

  return ids


_TOKENIZERS = (
  "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model",
)  # fmt: skip


def pretrained(spec: os.PathLike[str] | str) -> Any:
  """The tokenizer of transformers in a folder or beside a file.

  Raises:
    UserError: transformers is not installed, or there is no tokenizer.
  """
  try:
    import transformers
  except ImportError as error:
    raise UserError(
      'texts need the tokenizer of transformers; pip install "jaxreward[text]"'
    ) from error
  path = hub.resolve(spec)
  folder = path if path.is_dir() else path.parent
  if not any((folder / name).exists() for name in _TOKENIZERS):
    raise UserError(
      f"there is no tokenizer in {folder}; put tokenizer.json and"
      " tokenizer_config.json of the model there, or name their folder in"
      " tokenizer"
    )
  try:
    return transformers.AutoTokenizer.from_pretrained(
      folder, local_files_only=True
    )
  except Exception as error:  # of transformers, tokenizers or the disk
    raise UserError(
      f"the tokenizer in {folder} cannot be read: {one_line(error)}"
    ) from error
