"""Preferences that a task draws and labels, between images of its prompts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import rng, setup, tasks
from jaxreward.data import preferences, tastes
from jaxreward.data.preferences import Preferences
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, shown
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler, Share
from jaxreward.reward_models import RewardModel
from jaxreward.setup import (
  branches,
  prompt_encoding,
  reward_labels,
  sampling,
)
from jaxreward.types import Array, Params, Policy

GALLERY = "train_reward.sampling.gallery"


def sample_policy(
  config: ConfigDict,
  policy: Policy,
  params: Params,
  row_prompts: list[Prompt],
) -> Array:
  """uint8 [1 + L, Q, S, H, W, C]: images of the policy and of those in the gallery.

  Each draws `sampling.samples` at each of several guidance scales. Behind the
  images are the clean estimates of the same samples, x_t - t v, at the L looks of
  `sampling.estimates`.
  """
  options = config.train_reward.sampling
  prompts = prompt_encoding.make_encode(config, policy)(
    setup.make_task(config).batch(row_prompts)
  )
  decoder = setup.load_decoder(config, policy)
  ids = preferences.row_ids(prompts)
  table, share = plan_of(config)
  looks = [step - 1 for step in estimates(config)]
  layout = rollout.make_layout(
    len(row_prompts), options.samples, options.microbatch, jax.device_count()
  )

  @functools.partial(jax.jit, static_argnames="scale")
  def draw(params, key, policy_inputs, ids, decoder, scale):
    sampler = Sampler(policy, table, layout, scale, share=share)
    state = sampler.init(params, key, policy_inputs, ids)

    def shown(latents):
      flat = rollout.from_chunks(latents)
      return preferences.as_bytes(sampler.pixels(flat, decoder))

    if not looks:
      end, _ = sampler.scan(params, state, lambda *_: None)
      return shown(end.latents)[None]
    end, guesses = sampler.scan(
      params, state, lambda before, after, info, step: shown(info.x0_hat),
      at=looks,
    )  # fmt: skip
    return jnp.concatenate([shown(end.latents)[None], guesses])

  images = []
  for spec in ("", *gallery(config)):
    if spec:
      params = setup.load_params(config, policy, spec=spec, field=GALLERY)
    for scale in options.guidance_scales:
      key = rng.stream_key(config.seed, "preferences", len(images))
      images.append(
        draw(params, key, prompts.words, ids, decoder, float(scale))
      )
  return jnp.concatenate(images, 2)


def estimates(config: ConfigDict) -> Sequence[Any]:
  """Steps before each look at clean estimates, see `check_estimates`."""
  return config.train_reward.sampling.get("estimates", ())


def check_estimates(config: ConfigDict) -> None:
  """Refuses looks that the sampler does not take, or of what it does not draw.

  Raises:
    UserError: names the field, its value and the fix.
  """
  looks = tuple(estimates(config))
  if not looks:
    return
  section = config.train_reward
  field = f"config.train_reward.sampling.estimates={shown(repr(looks), 80)}"
  if section.source not in tasks.OWN:
    raise UserError(
      f"{field}: images come from config.train_reward.source, and no sampler"
      " draws any; leave it empty"
    )
  steps = len(np.asarray(plan_of(config)[0].t))
  if not all(isinstance(x, int) and 1 <= x <= steps for x in looks):
    raise UserError(f"{field}: expected steps taken, from 1 to {steps}")
  if len(looks) > section.steps:
    raise UserError(
      f"{field}: {len(looks)} stages share config.train_reward.steps="
      f"{section.steps}; give more steps"
    )
  if section.early_stopping.patience:
    raise UserError(
      f"{field}: each look is a stage of the training, and"
      " config.train_reward.early_stopping.patience="
      f"{section.early_stopping.patience} may end it before the last; set it to 0"
    )
  for name in ("renders", "spoiled", "borrowed"):
    if section.pictures[name]:
      raise UserError(
        f"{field}: drawn images alone have estimates; set"
        f" config.train_reward.pictures.{name}={section.pictures[name]} to 0"
      )


def gallery(config: ConfigDict) -> Sequence[Any]:
  """Files of weights of the other policies that draw, see `check_gallery`."""
  return config.train_reward.sampling.get("gallery", ())


def check_gallery(config: ConfigDict) -> None:
  """Refuses what names no other policy to draw preferences.

  Raises:
    UserError: names the entry and the fix.
  """
  for spec in gallery(config):
    field = f"config.{GALLERY}={shown(repr(spec), 80)}"
    if config.train_reward.source not in tasks.OWN:
      raise UserError(
        f"{field}: images come from config.train_reward.source, and no policy"
        " draws any; leave it empty"
      )
    if not isinstance(spec, str) or not spec or spec.startswith("workdir:"):
      raise UserError(
        f"{field}: expected files of weights, as in"
        ' ("runs/aligned/policy.safetensors",)'
      )


def check_reference(config: ConfigDict, model: RewardModel) -> None:
  """Refuses a reference that is the only right image or is not there, and images
  spoiled from no render.

  Raises:
    UserError: names the field and the fix.
  """
  if config.train_reward.source not in tasks.OWN:
    return
  pictures = config.train_reward.pictures
  field = "config.train_reward.pictures"
  if pictures.reference and pictures.renders < 2:
    raise UserError(
      f"{field}.renders={pictures.renders}: with {field}.reference=true one of"
      " them is the reference, and no right answer is left; set it to 2 or more"
    )
  if pictures.spoiled and not pictures.renders:
    raise UserError(
      f"{field}.renders=0: {field}.spoiled={pictures.spoiled} images are made of"
      " renders; set renders to 1 or more, or spoiled to 0"
    )
  if model.context and not pictures.reference:
    raise UserError(
      "config.reward_model.context=true: drawn rows have a source image with"
      f" {field}.reference=true alone; set that, or context to false"
    )


def plan_of(config: ConfigDict) -> tuple[steppers.StepTable, Share | None]:
  """(constants of the steps, which samples branch from one another).

  Raises:
    UserError: see `branches.make_share` and `sampling.make_steps`.
  """
  section, options = "train_reward.sampling", config.train_reward.sampling
  times = schedule.timesteps(options.num_steps, options.shift)
  table = sampling.make_steps(config, section)(times)
  return table, branches.make_share(config, section, options.samples, table)


def scene_preferences(
  config: ConfigDict,
  policy: Policy,
  params: Params,
  tokenize: Callable[[Sequence[str]], np.ndarray] | None = None,
  workdir: epath.Path | None = None,
) -> tuple[Preferences, Preferences]:
  """Training and held-out preferences on prompts of `data.source`.

  Held-out labels are the detector's; training labels are flipped at the rate
  `train_reward.label_noise`, and those of `train_reward.labels` if that names a
  reward, which may keep its answers in `workdir`. With `sampling.estimates` the
  rows' images are these, stage after stage, and in the test those of the last;
  labels are of the finished images.
  """
  options = config.train_reward
  prompts = functools.partial(setup.load_prompts, config)
  train = preferences.choose_rows(
    prompts("train"), options.train_rows, config.seed
  )
  others = prompts("validation") + prompts("heldout")
  heldout = preferences.choose_rows(others, options.heldout_rows, config.seed)
  row_prompts = train + heldout
  scales = options.sampling.guidance_scales
  logging.info(
    "drawing and judging images of %d prompts, %d each by the policy ...",
    len(row_prompts),
    options.sampling.samples
    * len(scales)
    * (1 + len(gallery(config))),
  )  # fmt: skip
  samples, *guesses = sample_policy(config, policy, params, row_prompts)
  key = rng.stream_key(config.seed, "preference pictures")
  task = setup.make_task(config)
  assert task.preferences
  pictures = options.pictures.to_dict()
  has_reference = pictures.pop("reference")
  rows = task.preferences(key, row_prompts, samples, **pictures)
  if has_reference:
    rows = preferences.beside_reference(rows)
  if tokenize is not None:
    tokens = jnp.asarray(tokenize([prompt.text for prompt in row_prompts]))
    rows = dataclasses.replace(rows, tokens=tokens)
  per_row = rows.images.shape[0] // len(row_prompts)

  users, split = options.users, len(train)
  train_rows = preferences.rows_between(rows, 0, split, per_row=per_row)
  if options.labels:
    train_rows = reward_labels.scored(config, train_rows, train, workdir)

  def labelled(side: Preferences, number: int, noise: float) -> Preferences:
    if users.count:
      count = users.count + number * users.unseen
      side = tastes.planted(side, count, users.weight, config.seed)
    prob = preferences.preference_probabilities(
      rng.stream_key(config.seed, "preference labels", number),
      side.score,
      label_noise=noise,
      margin=options.margin,
      ties=options.ties,
    )
    return dataclasses.replace(side, prob=prob)

  heldout_rows = preferences.rows_between(
    rows, split, len(row_prompts), per_row=per_row
  )
  sides = (
    labelled(train_rows, 0, options.label_noise),
    labelled(heldout_rows, 1, 0.0),
  )
  if not guesses:
    return sides
  flat = lambda parts: jnp.concatenate(
    [x.reshape(-1, *x.shape[2:]) for x in parts]
  )
  return (
    dataclasses.replace(sides[0], images=flat([x[:split] for x in guesses])),
    dataclasses.replace(sides[1], images=flat([guesses[-1][split:]])),
  )


def texts_of(
  config: ConfigDict, model: RewardModel, rows: Preferences
) -> list[str]:
  """Held-out prompts of a task, from their tokens; empty where unknown."""
  prompts = [
    p for s in ("validation", "heldout") for p in setup.load_prompts(config, s)
  ]
  texts = [prompt.text for prompt in prompts]
  if model.backbone.read is None:
    tokens = setup.make_task(config).batch(prompts).tokens
  else:
    tokens = model.backbone.read(texts)
  text_of = {bytes(np.asarray(row, np.int32)): text for row, text in
             zip(np.asarray(tokens), texts, strict=True)}  # fmt: skip
  rows_of = np.asarray(rows.tokens, np.int32)
  return [text_of.get(bytes(row), "") for row in rows_of]
