"""Samples images for the prompts of a task."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files, processes, rng, setup, tasks
from jaxreward.data import pictures
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.prompts import Prompt
from jaxreward.evaluation import tables
from jaxreward.flow import guidance
from jaxreward.report import grids
from jaxreward.rewards import Reward
from jaxreward.setup import adapters, data_checks, prompt_encoding
from jaxreward.setup import rewards as reward_setup
from jaxreward.steering import Steering
from jaxreward.types import Array, ArrayLike, Params, Policy, PromptBatch


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  policy = setup.make_policy(config)
  prompt_encoding.bind(config, policy)
  adapters.check(config, policy)
  setup.step_table(config, "sample")
  if setup.make_steering(config, "sample") is not None:
    reward_setup.bind(config)


def pictures_of(
  config: ConfigDict,
  policy: Policy,
  params: Params,
  batch: PromptBatch,
  decoder: Params | None = None,
) -> tuple[ArrayLike, Array]:
  """(latents, images in [0, 1]), [P * G, ...] both; call it in jit.

  Args:
    config: of the run; `config.sample` is read.
    policy: takes the parameters.
    params: its parameters.
    batch: P encoded prompts.
    decoder: parameters of its autoencoder.
  """
  options, rows = config.sample, len(batch.ids)
  sampler = setup.make_sampler(
    config, "sample", policy, rows, options.group, options.guidance_scale
  )
  key = rng.stream_key(config.seed, "sample")
  start = setup.start_latents(config, "sample", policy, batch, decoder)
  trajectory = sampler.sample(params, key, batch.words, batch.ids, start=start)
  latents = trajectory.latents[-1]
  images = jnp.clip(sampler.pixels(latents, decoder), 0, 1)
  count = rows * options.group
  return latents[:count], images.reshape(count, *images.shape[2:])


def _steered(
  config: ConfigDict,
  method: Steering,
  policy: Policy,
  rewards: Mapping[str, Reward],
  params: Params,
  batch: PromptBatch,
  decoder: Params | None,
) -> Array:
  """Images [P * G, H, W, C] in [0, 1], steered by a reward."""
  options = config.sample
  particles = setup.make_particles(
    config, "sample", method, policy, len(batch.ids), options.group, rewards,
    seed=config.seed, stream="sample",
  )  # fmt: skip
  scale = options.guidance_scale
  scale = None if guidance.is_off(scale) else jnp.float32(scale)
  pixels, trace = method.run(particles, params, batch, decoder, scale)
  logging.info(
    'steered by "%s": %d evaluations of the network and %d scores per image,'
    " mean score %.4f",
    options.steering.name, trace.network_evaluations, trace.reward_calls,
    float(jnp.mean(trace.score)),
  )  # fmt: skip
  return jnp.clip(pixels, 0, 1).reshape(-1, *pixels.shape[2:])


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  data_checks.require_weights(config)
  steers = config.sample.steering.name != "none"
  rows = data_checks.of_rewards(config, workdir) if steers else []
  prompts = _prompts(config)
  data_checks.warn_of_long(config, [prompt.text for prompt in prompts])
  return [*rows, *pictures.rows_of(prompts)]


def _prompts(config: ConfigDict) -> tuple[Prompt, ...]:
  """The first prompts of a split, or of the user's file."""
  is_own = config.data.source not in tasks.OWN
  prompts = setup.load_prompts(config, None if is_own else config.sample.split)
  return prompts[: config.sample.prompts]


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Writes workdir/samples/*.png, a grid of all, and a description of each."""
  options = config.sample
  policy = setup.make_policy(config)
  task = setup.make_task(config)
  prompts = _prompts(config)
  params = setup.load_params(config, policy)
  mesh = setup.make_mesh(config)
  method = setup.make_steering(config, "sample")
  decoder = setup.put_decoder(config, policy, mesh)
  batch = task.batch(prompts, side=setup.picture_side(policy))
  batch = prompt_encoding.make_encode(config, policy, mesh, decoder)(batch)

  def draw(params, batch, decoder):
    _, images = pictures_of(config, policy, params, batch, decoder)
    return measure(images, batch)

  def measure(images, batch):
    groups = images.reshape(len(prompts), options.group, *images.shape[1:])
    return images, task.measure(groups, groups, batch).get("strict")

  with jax.set_mesh(mesh):
    params = setup.put(
      params, setup.shapes(params, policy.sharding_rules, mesh)
    )
    if method is None:
      outputs = jax.jit(draw)(params, batch, decoder)
    else:
      rewards = reward_setup.load(config, workdir, mesh=mesh)
      images = _steered(config, method, policy, rewards, params, batch, decoder)
      outputs = jax.jit(measure)(images, batch)
    images, strict = processes.fetch(outputs)
  descriptions = None if task.describe is None else task.describe(images)
  folder = workdir / "samples"
  rows = []
  for i, image in enumerate(images):
    prompt, member = prompts[i // options.group], i % options.group
    name = f"{i // options.group:04d}-{member}.png"
    enlarged = grids.enlarge(grids.to_uint8(image[None]), options.scale)[0]
    files.write_atomic(folder / name, grids.png(enlarged))
    row = {"file": name, "prompt": prompt.text}
    if descriptions is not None:
      row["seen"] = descriptions[i]
    if strict is not None:
      row["right"] = bool(strict[i // options.group, member])
    rows.append(row)
  grid = grids.image_grid_png(images, columns=options.group * 4)
  files.write_atomic(workdir / "samples.png", grid)
  tables.write_json(workdir / "samples.json", rows)
  accuracy = ""
  if strict is not None:
    accuracy = f", {100 * float(np.mean(strict)):.1f} % right by the detector"
  logging.info("%d images in %s%s", len(images), folder, accuracy)
