"""Draws pictures for prompts of a file or of the scenes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files, rng
from jaxreward.data import sources
from jaxreward.data.scenes import detect, grammar
from jaxreward.evaluation import tables
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.jobs import setup
from jaxreward.report import grids


def check(config: ConfigDict) -> None:
  """Refuses what a run would refuse, in a moment and without any array."""
  setup.make_policy(config)


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Writes workdir/samples/*.png, a grid of all, and what each one shows."""
  options = config.sample
  policy = setup.make_policy(config)
  source = config.data.source
  prompts = (
    sources.load_prompts(source, options.split)
    if source == "scenes"
    else sources.all_prompts(source)  # of a file of one's own, all
  )
  prompts = prompts[: options.prompts]
  params = setup.load_params(config, policy)
  batch = grammar.batch(prompts)
  layout = rollout.make_layout(len(prompts), options.group, options.microbatch)
  table = steppers.ode(
    schedule.timesteps(options.num_steps, config.rollout.shift)
  )

  @functools.partial(jax.jit)
  def draw(params, batch):
    trajectory = rollout.rollout(
      policy, params, rng.stream_key(config.seed, "sample"), batch.tokens,
      batch.ids, layout, table,
      guidance_scale=options.guidance_scale, record=False,
    )  # fmt: skip
    images = policy.decode(trajectory.latents[-1])[
      : len(prompts) * options.group
    ]
    detection = detect.detect(images)
    repeated = jax.tree.map(
      lambda x: jnp.repeat(jnp.asarray(x), options.group, 0), batch
    )
    return images, detection, detect.judge(detection, repeated).strict

  images, detection, strict = jax.device_get(draw(params, batch))
  seen = detect.describe(detection)
  folder = workdir / "samples"
  rows = []
  for i, image in enumerate(images):
    prompt, member = prompts[i // options.group], i % options.group
    name = f"{i // options.group:04d}-{member}.png"
    enlarged = grids.enlarge(grids.to_uint8(image[None]), options.scale)[0]
    files.write_atomic(folder / name, grids.png(enlarged))
    rows.append(
      {
        "file": name,
        "prompt": prompt.text,
        "seen": seen[i],
        "right": bool(strict[i]),
      }
    )
  grid = grids.image_grid_png(images, columns=options.group * 4)
  files.write_atomic(workdir / "samples.png", grid)
  tables.write_json(workdir / "samples.json", rows)
  logging.info(
    "%d pictures in %s, %.1f %% right by the detector",
    len(images), folder, 100 * float(np.mean(strict)),
  )  # fmt: skip
