"""How well an image matches its prompt, by published encoders.

Scores are scaled as in the literature, so that numbers compare.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.models.vision import encoders
from jaxreward.models.vision.encoders import Encoder
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Scores = dict[str, Float[Array, "P G"]]


def load_pair(
  weights: str,
  *,
  size: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 64,
) -> Loaded:
  """Both towers of a checkpoint and its tokenizer.

  Images and texts are preprocessed as by the library that saved the weights:
  in open_clip's layout texts are cleaned (`words.clean`); for SigLIP they are
  lowercased.

  Args:
    weights: folder, file or hub id; see `models.hub.resolve`.
    size: named architecture of weights without a config beside them.
    dtype: of parameters and compute, "float32" or "bfloat16".
    tokenizer: its folder or hub id, if it is not beside the weights.
    microbatch: images that go through the tower at once; 0 for all.
  """
  towers = encoders.load(weights, size=size, dtype=dtype, microbatch=microbatch)
  return _pair(weights, towers, tokenizer)


def _pair(weights: str, towers: encoders.Weights, tokenizer: str) -> Loaded:
  if not towers.length:
    raise UserError(f"{weights} has no text tower; use a CLIP or SigLIP pair")
  ids = encoders.tokenizer(
    weights, towers.length, tokenizer, wording=towers.wording,
    literal=towers.literal,
  )  # fmt: skip
  return Loaded(
    {"encoder": towers.encoder},
    {"params": towers.params},
    {"params": towers.rules},
    lambda texts: {"text": ids(texts)},
  )


def load_hps(
  weights: str,
  *,
  size: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 64,
) -> Loaded:
  """As `load_pair`, with images and texts preprocessed as by HPSv2's authors.

  The longer side of an image is resized, in floating point, and the rest is
  padded with black; texts are cleaned in either layout.

  Args:
    weights: see `load_pair`.
    size: see `load_pair`.
    dtype: see `load_pair`.
    tokenizer: see `load_pair`.
    microbatch: see `load_pair`.
  """
  towers = encoders.load(
    weights, size=size, dtype=dtype, microbatch=microbatch, padded=True
  )
  return _pair(weights, towers, tokenizer)


def _cosines(images: Images, encoder: Encoder, params: Params, text) -> Array:
  """Cosines [P, G] of images with their texts; NaN where not finite."""
  features, usable = encoders.image_features(encoder, params, images)
  text_features = encoders.text_features(encoder, params, text)
  return jnp.where(
    usable, jnp.einsum("pge,pe->pg", features, text_features), jnp.nan
  )


def _logits(encoder: Encoder, params: Params, cosines: Array) -> Array:
  if encoder.logits is None:
    raise UserError("these weights have no scale of their logits")
  return encoder.logits(params, cosines)


@declare(loads=load_pair)
def clip_score(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
  divisor: float = 30.0,
) -> Scores:
  """exp(s) cos / divisor, with s the learned log scale of the pair.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: both towers.
    params: of both towers.
    text: the prompts' token ids.
    divisor: 30 is Flow-GRPO's.
  """
  logits = _logits(encoder, params, _cosines(images, encoder, params, text))
  return {"clip_score": logits / divisor}


def load_hessel(
  weights: str,
  *,
  prefix: str = "",
  size: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 64,
) -> Loaded:
  """As `load_pair`, with a prefix before every prompt.

  Args:
    weights: see `load_pair`.
    prefix: such as "A photo depicts ", which the paper puts before captions.
    size: see `load_pair`.
    dtype: see `load_pair`.
    tokenizer: see `load_pair`.
    microbatch: see `load_pair`.
  """
  pair = load_pair(
    weights, size=size, dtype=dtype, tokenizer=tokenizer, microbatch=microbatch
  )
  tokens = pair.prepare or (lambda texts: {})
  return dataclasses.replace(
    pair, prepare=lambda texts: tokens([prefix + text for text in texts])
  )


@declare(loads=load_hessel)
def clip_score_hessel(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
) -> Scores:
  """2.5 max(cos, 0) (Hessel et al. 2021, https://arxiv.org/abs/2104.08718).

  Arguments as `clip_score`. The paper puts "A photo depicts" before captions;
  here prompts stay unchanged unless `prefix` is set.
  """
  cosines = _cosines(images, encoder, params, text)
  return {"clip_score_hessel": 2.5 * jnp.maximum(cosines, 0.0)}


@declare(loads=load_pair)
def pick_score(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
  divisor: float = 26.0,
) -> Scores:
  """exp(s) cos / 26, about 0.8 to 0.9 for good images.

  Kirstain et al. 2023, https://arxiv.org/abs/2305.01569; weights
  yuvalkirstain/PickScore_v1. Arguments as `clip_score`.
  """
  logits = _logits(encoder, params, _cosines(images, encoder, params, text))
  return {"pick_score": logits / divisor}


@declare(loads=load_hps)
def hps_v2(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
) -> Scores:
  """The plain cosine of a tuned ViT-H/14, about 0.2 to 0.35.

  Wu et al. 2023, https://arxiv.org/abs/2306.09341; weights HPSv2.1 in
  safetensors, with size="vit_h_14" if there is no config beside them. Images
  are padded to squares, not cropped; see `load_hps`. Arguments as `clip_score`.
  """
  return {"hps_v2": _cosines(images, encoder, params, text)}


def load_goal(
  weights: str,
  *,
  baseline: str,
  size: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 64,
) -> Loaded:
  """As `load_pair`, with a baseline text that fits any image.

  Args:
    weights: see `load_pair`.
    baseline: such as "a picture".
    size: see `load_pair`.
    dtype: see `load_pair`.
    tokenizer: see `load_pair`.
    microbatch: see `load_pair`.
  """
  pair = load_pair(
    weights, size=size, dtype=dtype, tokenizer=tokenizer, microbatch=microbatch
  )
  if pair.prepare is None or not baseline:
    raise UserError("baseline is empty; name a text, such as 'a picture'")
  tokens = pair.prepare([baseline])["text"]
  return Loaded(
    pair.static, {**pair.arrays, "baseline": tokens}, pair.rules, pair.prepare
  )


@declare(loads=load_goal)
def clip_goal(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
  baseline: Int[ArrayLike, "1 L"],
  strength: float = 0.5,
) -> Scores:
  """1 - |a P (x - g) + (1 - a) (x - g)|^2 / 2, with P onto the line b to g.

  x, g and b are the unit features of image, prompt and baseline, and a is the
  strength: features off the line from the baseline to the prompt count less.
  At strength 0 it is the cosine. Rocamonde et al. 2023,
  https://arxiv.org/abs/2310.12921, section 3.2.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: both towers.
    params: of both towers.
    text: the prompts' token ids.
    baseline: the baseline's token ids.
    strength: a, in [0, 1].
  """
  if not 0.0 <= strength <= 1.0:
    raise UserError(f"clip_goal.strength={strength}: it must lie in [0, 1]")
  features, usable = encoders.image_features(encoder, params, images)
  goal = encoders.text_features(encoder, params, text)
  base = encoders.text_features(encoder, params, baseline)
  score = encoders.goal_score(features, goal, base, strength)
  return {"clip_goal": jnp.where(usable, score, jnp.nan)}


@declare(loads=load_pair)
def siglip_score(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
) -> Scores:
  """sigmoid(exp(s) cos + b): the probability that image and prompt match.

  Zhai et al. 2023, https://arxiv.org/abs/2303.15343; weights such as
  google/siglip2-so400m-patch14-384, or siglip2-so400m-patch16-naflex to keep
  aspect ratios. Arguments as `clip_score`.
  """
  logits = _logits(encoder, params, _cosines(images, encoder, params, text))
  return {"siglip_score": jax.nn.sigmoid(logits)}
