"""Backbones of images alone, of texts beside images, and of policies."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models.policies import scene_dit, trunk
from jaxreward.models.vision import (
  blip,
  dino,
  encoders,
  preprocess,
  scene_reward,
)
from jaxreward.models.vision.tower import Size
from jaxreward.numerics import largest
from jaxreward.reward_models.backbones import (
  BYTES,
  byte_tokens,
  drawn,
  image_states,
  size_of,
  tokenizer_of,
)
from jaxreward.reward_models.contract import Backbone, Features, Public
from jaxreward.reward_models.inputs import CLEAN, Noise
from jaxreward.types import Array, ArrayLike, Params, Policy

_SMALL = Size(32, 2, 2, 64)
TINY_DINO = dino.Dino(Size(32, 2, 2, 64, eps=1e-6, scaled=True), 9, 36, 2)
TINY_BLIP = blip.Blip(_SMALL, _SMALL, 9, 36, BYTES, 64)
BLIP_SIZES = {"tiny": TINY_BLIP, "image_reward": blip.IMAGE_REWARD}
BLIP_LENGTH = 35  # of ImageReward's prompts


def dino_tower(
  *,
  weights: str = "",
  size: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
  length: int = 64,
) -> Backbone:
  """DINOv2, with or without registers, or DINOv3: images alone.

  Prompts reach a head as bytes: of the heads only "cross" reads them.

  Args:
    weights: folder, file or hub id; see `models.hub.resolve`. Empty for random
      parameters.
    size: a name of `dino.SIZES`, or "tiny", for random parameters.
    dtype: of parameters and compute, "float32" or "bfloat16".
    microbatch: images that go through the tower at once; 0 for all.
    length: bytes of a prompt.
  """
  if weights:
    towers = encoders.load(
      weights, dtype=dtype, microbatch=microbatch, read=False
    )
    config = dino.describe(weights)
    pretrained = lambda: dino.load(weights, dtype=dtype)[1]
  else:
    config = size_of(size, {"tiny": TINY_DINO, **dino.SIZES})
    towers = encoders.drawn_dino(config, dtype, microbatch)
    pretrained = None
  net, encoder = dino.DinoModel(config, jnp.dtype(dtype)), towers.encoder
  prepared: Any = encoder.prepared
  shape = (*prepared.size, 3)

  def init(key: Array) -> Params:
    return drawn(net, key, dtype, jnp.zeros((1, config.image, config.image, 3)))

  def features(
    params: Params, images: ArrayLike, tokens: ArrayLike
  ) -> Features:
    image, states = image_states(encoder, params, images)
    mean = encoders.unit(states.astype(jnp.float32).mean(2))
    joint = image.shape[-1] ** 0.5 * jnp.concatenate([image, mean], -1)
    return {
      "joint": joint, "image": image, "states": states, "tokens": tokens,
      "word_mask": jnp.asarray(tokens) > 0,
    }  # fmt: skip

  return Backbone(
    init, features, shape, length,
    lambda texts: byte_tokens(texts, length), pretrained, dino.SHARDING_RULES,
    ("joint", "image", "states", "tokens"),
    public=Public(dino.rules_of(config)),
  )  # fmt: skip


def blip_towers(
  *,
  weights: str = "",
  size: str = "",
  tokenizer: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Backbone:
  """BLIP as ImageReward reads it: the first text state beside each image.

  Args:
    weights: of ImageReward, in its layout; empty for random parameters.
    size: "image_reward" or "tiny", for random parameters.
    tokenizer: folder or hub id of BERT's; without weights a token per byte.
    dtype: of parameters and compute, "float32" or "bfloat16".
    microbatch: images that go through the towers at once; 0 for all.
  """
  config = blip.config_of(weights) if weights else size_of(size, BLIP_SIZES)
  net, side = blip.BlipModel(config, jnp.dtype(dtype)), config.image
  prepared = preprocess.Preprocess((side, side), side, nearest=True)
  length = min(BLIP_LENGTH, config.places)

  def init(key: Array) -> Params:
    tokens, mask = jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8), bool)
    image = jnp.zeros((1, side, side, 3))
    return drawn(net, key, dtype, tokens, mask, image)

  def pretrained() -> Params:
    params = blip.load(weights, config, dtype=dtype)
    return {part: params[part] for part in ("vision", "text")}

  def features(
    params: Params, images: ArrayLike, tokens: ArrayLike
  ) -> Features:
    images, tokens = jnp.asarray(images), jnp.asarray(tokens)
    group = images.shape[1]
    mask = (tokens > 0).at[:, 0].set(True)
    rows = {
      "images": images.reshape(-1, *images.shape[2:]),
      "tokens": jnp.repeat(tokens, group, 0),
      "mask": jnp.repeat(mask, group, 0),
    }

    def forward(x: Any) -> tuple[Array, Array]:
      outputs: Any = net.apply(
        {"params": params}, x["tokens"], x["mask"], prepared(x["images"]),
        method="both",
      )  # fmt: skip
      text, vision = outputs
      return text[:, 0].astype(jnp.float32), vision

    joint, states = jax.tree.map(
      lambda x: x.reshape(*images.shape[:2], *x.shape[1:]),
      encoders.in_chunks(forward, rows, microbatch),
    )
    return {
      "joint": joint, "states": states, "tokens": tokens, "word_mask": mask,
    }  # fmt: skip

  return Backbone(
    init, features, (side, side, 3), length,
    tokenizer_of(weights, tokenizer, length), pretrained if weights else None,
    blip.SHARDING_RULES, ("joint", "states", "tokens"),
    public=Public(
      blip.tower_rules(config), stem="ImageReward", head_at="mlp."
    ),
    first=r"^(text/(token|position|norm)|vision/(class|position|patches))\b",
  )  # fmt: skip


def scene_trunk(
  *,
  least: float = 0.0,
  most: float = 1.0,
  at: float = 0.02,
  width: int = 128,
  depth: int = 2,
  heads: int = 2,
  mlp_ratio: int = 3,
  text_layers: int = 2,
  unroll: int = 1,
  dtype: str = "float32",
) -> Backbone:
  """The first blocks of the scenes' policy, on noisy images; see `trunk_of`.

  Args:
    least: of the times that are drawn in training.
    most: of them.
    at: time of images that are scored.
    width: see `scene_dit.make_policy`, as the other sizes.
    depth: blocks; a policy's first ones are copied into them.
    heads: attention heads.
    mlp_ratio: hidden features of a block's MLP per feature.
    text_layers: blocks over the words.
    unroll: blocks unrolled in the scan.
    dtype: of the products.
  """
  sizes = dict(
    width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio,
    text_layers=text_layers, unroll=unroll,
  )  # fmt: skip
  scene_dit.require_sizes("config.reward_model.backbone.", **sizes)
  policy = scene_dit.make_policy(**sizes, dtype=dtype)
  return trunk_of(policy, scene_dit.MAX_WORDS, least, most, at)


def trunk_of(
  policy: Policy,
  length: int,
  least: float = 0.0,
  most: float = 1.0,
  at: float = 0.02,
) -> Backbone:
  """A policy's own states on (x_t, t), without a decoder.

  Latent rewards: DreamVideo-Omni (latent identity), the stitched value model
  (StitchVM), DiNa-LRM. x_t = (1 - t) x_0 + t noise; images of a row share time
  and noise, so that they differ in what they show alone. The authors' times,
  depths and poolings are unverified.

  Args:
    policy: whose `encode` takes token ids; its latents are images in [-1, 1],
      or what the rows hold in their place.
    length: of the token ids.
    least: of the times that are drawn in training.
    most: of them.
    at: time of images that are scored.

  Raises:
    UserError: times outside of [0, 1] or in another order.
  """
  if not 0 <= least < most <= 1 or not 0 <= at <= 1:
    raise UserError(
      f"reward_model.backbone.most={most}: times lie in [0, 1] and above"
      f" least={least}; so does at={at}"
    )
  is_pixels = policy.decoder is None and policy.latent_shape[-1] == 3

  def features(
    params: Params, images: ArrayLike, tokens: Any, noise: Noise = CLEAN
  ) -> Features:
    x = jnp.asarray(images)
    p, g = x.shape[:2]
    if is_pixels and not noise.is_added:
      x = 2 * x - 1
    x_t, t = noisy(x, noise, (least, most), at)
    cond = policy.encode(params, tokens)
    cond = jax.tree.map(lambda c: jnp.repeat(c, g, 0), cond)
    flat = x_t.reshape(p * g, *x.shape[2:])
    states = trunk.last_states(policy, params, flat, t.reshape(-1), cond)
    pooled = jnp.concatenate([states.mean(1), largest(states, 1)], -1)
    joint = pooled.reshape(p, g, -1).astype(jnp.float32)
    states = states.reshape(p, g, *states.shape[1:])
    words = {}
    if isinstance(tokens, jax.Array | np.ndarray):
      words = {"tokens": tokens, "word_mask": jnp.asarray(tokens) > 0}
    return {"joint": joint, "states": states, **words}

  return Backbone(
    policy.init, features, policy.latent_shape, length,
    sharding_rules=policy.sharding_rules, gives=("joint", "states", "tokens"),
    takes_time=True, from_policy=scene_reward.init_from_policy,
  )  # fmt: skip


def noisy(
  x: Float[Array, "P G ..."],
  noise: Noise,
  between: tuple[float, float],
  at: float,
) -> tuple[Float[Array, "P G ..."], Float[Array, "P G"]]:
  """(x_t, t) of clean latents; see `Noise`.

  Args:
    x: latents.
    noise: level, keys, or that it is in them already.
    between: least and largest time that is drawn.
    at: time without keys.
  """
  p, g = x.shape[:2]
  low, high = between
  if noise.time is not None:
    t = jnp.asarray(noise.time, jnp.float32)
  elif noise.keys is not None:
    of_time = jax.vmap(lambda key: jax.random.fold_in(key, 1))(noise.keys)
    t = low + (high - low) * jax.vmap(jax.random.uniform)(of_time)
  else:
    t = jnp.full((p,), at)
  t = jnp.broadcast_to(t.reshape(p, -1), (p, g))
  if noise.is_added:
    return x, t
  keys = noise.keys
  if keys is None:  # the same noise for every row, whenever it is scored
    keys = jnp.broadcast_to(jax.random.key(0), (p,))
  draw = lambda key: jax.random.normal(jax.random.fold_in(key, 2), x.shape[2:])
  eps = jax.vmap(draw)(keys)[:, None]
  level = t.reshape(p, g, *(1,) * (x.ndim - 2))
  return (1 - level) * x + level * eps, t
