"""The architecture that a config names, with its autoencoder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import models, rng, user_code
from jaxreward.errors import UserError, nearest, shown
from jaxreward.models import lora
from jaxreward.models.autoencoders import vae, video_vae
from jaxreward.setup import parameters, videos
from jaxreward.setup.task import make_task
from jaxreward.types import Array, Params, Policy


def _bare_policy(config: ConfigDict) -> Policy:
  make = config_lib.bind(config.model, models.REGISTRY, field="model")
  return user_code.call("config.model", make)


def make_policy(config: ConfigDict) -> Policy:
  """The architecture that `config.model` names, with its autoencoder.

  Raises:
    UserError: one of the two is unknown, or they do not match.
  """
  policy = _bare_policy(config)
  videos.require_task(policy, make_task(config), config)
  if config.autoencoder.name != "none":
    policy = _with_autoencoder(policy, make_autoencoder(config), config)
  return videos.as_strips(policy, config)


def make_autoencoder(config: ConfigDict) -> vae.Autoencoder:
  """The autoencoder that `config.autoencoder` names.

  Raises:
    UserError: its name or an option is unknown.
  """
  make = config_lib.bind(
    config.autoencoder, models.AUTOENCODERS, field="autoencoder",
    reserved=("weights",),
  )  # fmt: skip
  return user_code.call("config.autoencoder", make)


def _with_autoencoder(
  policy: Policy, autoencoder: vae.Autoencoder, config: ConfigDict
) -> Policy:
  dims = len(policy.latent_shape)
  if autoencoder.is_video != videos.is_video(policy):
    media = ("pictures", "videos")
    raise UserError(
      f'config.autoencoder.name="{config.autoencoder.name}" is one of'
      f' {media[autoencoder.is_video]}, and "{config.model.name}" makes'
      f" {media[not autoencoder.is_video]}: take one that fits"
    )
  channels = policy.latent_shape[-1]
  if channels != autoencoder.channels:
    raise UserError(
      f'config.autoencoder.name="{config.autoencoder.name}" has latents of'
      f" {autoencoder.channels} channels, and the policy"
      f' "{config.model.name}" of {channels}: take one that fits'
    )
  side = autoencoder.side
  if side and policy.latent_shape[:2] != (side, side):
    height, width = policy.latent_shape[:2]
    raise UserError(
      f'config.autoencoder.name="{config.autoencoder.name}" has latents of {side}'
      f' x {side} pixels, and the policy "{config.model.name}" of {height} x'
      f" {width}: set config.model.image_size={side}, or the autoencoder's sizes"
    )

  def to_pixels(latents: Array, decoder: Params | None = None) -> Array:
    rows = latents.reshape(-1, *policy.latent_shape)
    images = autoencoder.decode(decoder, rows)
    return images.reshape(*latents.shape[:-dims], *images.shape[1:])

  def to_latents(images: Array, decoder: Params | None = None) -> Array:
    if not autoencoder.is_video:
      return autoencoder.encode(decoder, images)
    frames, *_, depth = policy.pictures["picture"].shape[1:]  # pyrefly: ignore
    if depth == channels:  # the first frame and no mask
      return autoencoder.encode(decoder, images[:, None])
    return video_vae.from_images(autoencoder, decoder, images, frames)

  return dataclasses.replace(
    policy,
    to_pixels=to_pixels,
    to_latents=to_latents,
    decoder=autoencoder.init,
    decoder_rules=autoencoder.sharding_rules,
    decoder_layout=autoencoder.layout,
    decoder_fields=autoencoder.public_fields,
  )


def score_frames(
  config: ConfigDict, reward: Callable[..., Any], frames: int | None = None
) -> Callable[..., Any]:
  """An image reward, adapted to strips of frames.

  Args:
    config: of the run.
    reward: of images.
    frames: of a strip, 0 for images; None for what the policy makes.
  """
  if frames is not None:
    return videos.scored(reward, config, frames) if frames else reward
  policy = _bare_policy(config)
  return videos.scored(reward, config) if videos.is_video(policy) else reward


def picture_side(policy: Policy) -> tuple[int, int]:
  """(height, width) in pixels of a policy's images, or of its frames."""
  rows = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  decoder = None
  if policy.decoder is not None:
    decoder = jax.eval_shape(policy.decoder, jax.random.key(0))
  height = jax.eval_shape(policy.to_pixels, rows, decoder).shape[-3]
  latent_height, latent_width = policy.latent_shape[-3:-1]
  return height, height // latent_height * latent_width


@dataclasses.dataclass(frozen=True)
class Trainable:
  """The trained part of a policy, and how it merges with the base.

  Attributes:
    policy: takes merged parameters (with adapters, if there are any).
    plain: the policy without adapters, for the reference.
    init: base -> trained parameters at step 0; run it in jit, which drops
      the base parameters it does not return.
    merge: (trained, base) -> parameters that `policy` takes.
    export: (trained, base) -> parameters that `plain` takes.
    is_whole: whether all parameters are trained, so that no base is read.
  """

  policy: Policy
  plain: Policy
  init: Callable[[Params], Params]
  merge: Callable[[Params, Params], Params]
  export: Callable[[Params, Params], Params]
  is_whole: bool = False


def make_trainable(config: ConfigDict, policy: Policy) -> Trainable:
  """What learns: adapters of `config.lora.rank`, `align.trained`, or all.

  Raises:
    UserError: `align.trained` beside adapters, or of no parameter.
  """
  if config.align.get("trained", ""):
    return _partial(config, policy)
  if not config.lora.rank:
    merge = lambda trained, base: trained
    return Trainable(policy, policy, lambda base: base, merge, merge, True)
  options = {k: config.lora[k] for k in ("rank", "alpha", "targets")}
  adapted = lora.adapt_policy(policy, **options)
  key = rng.stream_key(config.seed, "lora")

  def init(base: Params) -> Params:
    del base
    return lora.split(adapted.init(key))[1]

  def export(trained: Params, base: Params) -> Params:
    return lora.fuse(lora.merge(base, trained), alpha=options["alpha"])

  def merge(trained: Params, base: Params) -> Params:
    return lora.merge(base, trained)

  return Trainable(adapted, policy, init, merge, export)


def _partial(config: ConfigDict, policy: Policy) -> Trainable:
  """The parameters whose path `align.trained` matches."""
  pattern = config.align.trained
  field = f'config.align.trained="{shown(pattern, 60)}"'
  if config.lora.rank:
    raise UserError(
      f"{field}: with config.lora.rank={config.lora.rank} adapters alone learn;"
      " leave one of the two out"
    )
  try:
    re.compile(pattern)
  except re.error as error:
    raise UserError(f"{field}: {error}") from error
  like = jax.eval_shape(policy.init, jax.random.key(0))
  if not parameters.matching(like, pattern):
    names = traverse_util.flatten_dict(like, sep="/")
    raise UserError(
      f"{field} matches no parameter of the policy{nearest(pattern, names)}"
    )
  init = lambda base: parameters.matching(base, pattern)
  return Trainable(policy, policy, init, _overlaid, _overlaid)


def _overlaid(trained: Params, base: Params) -> Params:
  """The base with some of its parameters replaced."""
  return {
    name: child
    if name not in trained
    else _overlaid(trained[name], child)
    if isinstance(child, dict)
    else trained[name]
    for name, child in base.items()
  }
