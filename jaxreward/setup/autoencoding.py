"""Training of an autoencoder on the images that a task renders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxreward import rng
from jaxreward.errors import UserError
from jaxreward.models.autoencoders import vae
from jaxreward.numerics import Mean
from jaxreward.setup.policies import make_autoencoder
from jaxreward.tasks import Task
from jaxreward.types import Array, Params, PromptBatch


def require(config: ConfigDict, task: Task) -> vae.Autoencoder:
  """The autoencoder that `config.autoencoder` names, if it can be trained here.

  Raises:
    UserError: there is none, it is one of videos, or the task renders nothing.
  """
  section = config.autoencoder
  field = f'config.autoencoder.name="{section.name}"'
  if section.name == "none":
    raise UserError(
      f'{field}: with config.pretrain.part="autoencoder" one is trained; name'
      ' one, as "patches"'
    )
  autoencoder = make_autoencoder(config)
  if autoencoder.is_video:
    raise UserError(
      f'{field} is one of videos, and the task renders images; take "patches"'
    )
  if task.render is None or task.frames:
    raise UserError(
      f'config.data.grammar="{config.data.grammar}": an autoencoder is trained on'
      ' images that the task renders; take "scenes" or "portraits"'
    )
  return autoencoder


def moments(z: Float[Array, "B h w C"]) -> Float[Array, ""]:
  """How far each channel is from mean 0 and mean square 1; 0 if none is."""
  axes = tuple(range(z.ndim - 1))
  mean, square = z.mean(axes), jnp.square(z).mean(axes)
  return (jnp.square(mean) + jnp.square(square - 1)).mean()


def loss(
  autoencoder: vae.Autoencoder,
  seed: int,
  images_of: Callable[[Array, Mapping[str, Any]], Array],
  weight: float,
):
  """Mean absolute difference from the images, and `weight` times the moments.

  What is decoded is drawn from the posterior, so that nearby latents have to mean
  the same.
  """

  def loss_fn(params: Params, micro: dict[str, Any], frozen: tuple):
    key = rng.stream_key(seed, "autoencoder", frozen[0])
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(micro["seed"])
    images = images_of(rng.fold_each(keys, 0), micro)
    z = autoencoder.encode(params, images, jax.random.fold_in(key, 1))
    difference = jnp.abs(autoencoder.decode(params, z) - images)
    rows = difference.mean((1, 2, 3)) + weight * moments(z)
    return Mean.of(rows), {}

  return loss_fn


def make_evaluator(
  autoencoder: vae.Autoencoder, task: Task, batch: PromptBatch, seed: int
) -> Callable[[Params], dict[str, float]]:
  """Parameters -> PSNR of reconstructions in dB, and the task's measures.

  Args:
    autoencoder: of the parameters.
    task: renders the images and measures their reconstructions.
    batch: P prompts.
    seed: of what the prompts leave open.
  """

  @jax.jit
  def evaluate(params: Params, batch: PromptBatch) -> dict[str, Array]:
    ids = jnp.asarray(batch.ids)
    key = rng.stream_key(seed, "reconstruct")
    keys = rng.sample_keys(key, ids, jnp.zeros_like(ids))
    assert task.render
    images = task.render(keys, batch)
    output = autoencoder.decode(params, autoencoder.encode(params, images))
    error = jnp.square(jnp.clip(output, 0, 1) - images).mean((1, 2, 3))
    pixels = output[:, None]
    measures = task.measure(jnp.clip(pixels, 0, 1), pixels, batch)
    psnr = -10 * jnp.log10(jnp.maximum(error, 1e-10))
    return {"psnr": psnr.mean()} | {
      name: jnp.nanmean(value) for name, value in measures.items()
    }

  def run(params: Params) -> dict[str, float]:
    return {k: float(v) for k, v in evaluate(params, batch).items()}

  return run
