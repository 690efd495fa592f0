"""Rows of files in place of a rollout: a dataset, or preferences.

`config.data.dataset` gives images with captions and `config.data.preferences`
pairs of them. Images become finished samples, as a rollout would have left
them, in groups of one or two with the file's scores: feeds and objectives
cannot tell the difference. Nothing is drawn and no reward is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import feeds, processes, rng, setup, tasks, user_code
from jaxreward.data import rows
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.prompts import Prompt
from jaxreward.data.rows import Record, RowBatch
from jaxreward.data.sources import Parse
from jaxreward.errors import UserError, shown
from jaxreward.flow import rollout, times
from jaxreward.setup import checks, videos
from jaxreward.types import Array, ArrayLike, Params, Policy, Trajectory

ORIGINS = ("dataset", "preferences")
SCORE = "file"  # the name of the one score that a row's images have
WEIGHTS = {SCORE: 1.0}
_GROUP = {"rollout": 0, "dataset": 1, "preferences": 2}


def origin(config: ConfigDict) -> str:
  """Where samples come from: "rollout", "dataset" or "preferences".

  Raises:
    UserError: the config names two files.
  """
  given = [name for name in ORIGINS if config.data[name]]
  if len(given) > 1:
    raise UserError(
      f"config.data.preferences={shown(config.data.preferences, 60)}:"
      f" config.data.dataset={shown(config.data.dataset, 60)} gives rows too;"
      " set one of them"
    )
  return given[0] if given else "rollout"


def group(config: ConfigDict) -> int:
  """Samples of a prompt: of the rollout, or the images of a file's row."""
  return _GROUP[origin(config)] or config.rollout.group


def offers(config: ConfigDict) -> Mapping[str, feeds.Feed]:
  """The feeds that can make rows of the samples there are."""
  every = feeds.FEEDS
  names = {
    "rollout": [name for name in every if name != "dataset"],
    "dataset": ["dataset"],
    "preferences": ["pairs", "noised", "lists"],
  }[origin(config)]
  return {name: every[name] for name in names}


def is_drawn(config: ConfigDict) -> bool:
  """Whether a task's name stands in place of a path: the task draws the rows."""
  name = origin(config)
  return name != "rollout" and config.data[name] in tasks.OWN


def where(config: ConfigDict) -> str:
  """The objective's field, with the origin of its rows, for errors."""
  start = "objective.name"
  name = origin(config)
  if name == "rollout":
    return start
  return (
    f'{start}="{shown(config.objective.get("name"), 60)}" on config.data.{name}'
  )


def bind_density(config: ConfigDict) -> Callable[[Array], Array]:
  """Uniform draws -> the times at which samples are noised."""
  bound = config_lib.bind(
    config.align.density, times.DENSITIES, field="align.density", positional=1
  )
  with user_code.blamed("config.align.density", bound, host=False):
    checks.validate_options(
      bound, jax.ShapeDtypeStruct((2,), jnp.float32), field="align.density"
    )
  return bound


def check(config: ConfigDict, policy: Policy) -> None:
  """Refuses a config that files cannot serve, before any is read."""
  name = origin(config)
  if name == "rollout":
    if config.data.caption_drop:
      raise UserError(
        f"config.data.caption_drop={config.data.caption_drop:g}: captions are"
        " those of config.data.dataset or config.data.preferences; set one, or"
        " this to 0"
      )
    return
  field = f"config.data.{name}={shown(config.data[name], 60)}"
  if config.align.overlap:
    raise UserError(
      f"{field}: nothing is drawn, so that nothing overlaps; set"
      " config.align.overlap to False"
    )
  if len(config.players):
    raise UserError(
      f"config.players.{next(iter(config.players))}: it learns from what the"
      f" policy draws, and config.data.{name} gives rows of files; leave one out"
    )
  if config.composition.name != "weighted_sum":
    raise UserError(
      f'config.composition.name="{config.composition.name}": rows of'
      f" config.data.{name} have one score; use weighted_sum"
    )
  if policy.takes_source or videos.is_video(policy):
    what = "start from pictures" if policy.takes_source else "make videos"
    raise UserError(
      f'{field}: its rows are images with words, and "{config.model.name}"'
      f" {what.replace('start', 'starts').replace('make', 'makes')}; take a"
      " policy of images from words"
    )
  side = setup.picture_side(policy)
  if policy.to_latents is None and policy.latent_shape != (*side, 3):
    raise UserError(
      f'config.autoencoder.name="none": the policy "{config.model.name}" works'
      f" on latents, and images of config.data.{name} have to be encoded; name"
      " an autoencoder"
    )
  if is_drawn(config):
    _check_drawn(config, field, side)


def _check_drawn(config: ConfigDict, field: str, side: tuple[int, int]) -> None:
  task = setup.make_task(config)
  known = [name for name, t in tasks.TASKS.items() if t.draw is not None]
  if task.draw is None:
    raise UserError(
      f"{field}: {known[0]} are drawn for prompts of the {known[0]} alone; name"
      f' a file, or set config.data.source to "{known[0]}"'
    )
  size = task.drawn_side
  if side != (size, size):
    raise UserError(
      f"{field}: {known[0]} have {size} pixels a side, and the policy draws"
      f" {side[0]} x {side[1]}; name a file of images"
    )


def records(config: ConfigDict) -> list[Record]:
  """The rows of the file that are trained on; none of those that are drawn.

  With the grammar of the scenes those of held-out prompts are left out.

  Raises:
    UserError: the file, its line, and what is wrong there.
  """
  name = origin(config)
  if name == "rollout" or is_drawn(config):
    return []
  read = {"dataset": rows.read_dataset, "preferences": rows.read_preferences}
  field = f"config.data.{name}"
  found = read[name](config.data[name], _parser(config), field)
  trained = [r for r in found if r.prompt.split == "train"]
  if len(trained) < len(found) and processes.is_first():
    logging.info(
      "%s: %d of %d rows are of prompts that are held out, and left out", field,
      len(found) - len(trained), len(found),
    )  # fmt: skip
  start = f"{field}={shown(config.data[name], 60)}"
  if not trained:
    raise UserError(
      f"{start}: all {len(found)} rows are of prompts that are held out; give"
      " rows of others"
    )
  if all(r.is_tie for r in trained):
    raise UserError(
      f"{start}: of the {len(trained)} pairs whose prompts are not held out none"
      " has an answer"
    )
  return trained


def _file_task(config: ConfigDict) -> tasks.Task:
  """The task, on the prompts of the file."""
  return tasks.get(config.data.grammar, config.data[origin(config)])


def _parser(config: ConfigDict) -> Parse:
  """Words -> the prompt, of those that the policy knows."""
  kinds, task = setup.make_policy(config).kinds, _file_task(config)

  def parse(text: str) -> Prompt:
    prompt = task.parse(text)
    category = task.categories[prompt.category]
    if kinds and category not in kinds:
      raise UserError(
        f'the prompt "{shown(text)}" is of the kind'
        f' "{category}", and the policy knows'
        f" {', '.join(kinds)} alone"
      )
    return prompt

  return parse


def checked(config: ConfigDict) -> tuple[list[PictureRow], list[str]]:
  """(images of the rows, as they are checked; their captions)."""
  found = records(config)
  return rows.checked(found), [r.prompt.text for r in found]


def batches(config: ConfigDict) -> Callable[[int], RowBatch] | None:
  """Rows of an iteration, a function of the seed and the iteration alone.

  None where samples are drawn.
  """
  name = origin(config)
  if name == "rollout":
    return None
  if is_drawn(config):
    read = _drawn(config, with_worse=name == "preferences")
  else:
    read = rows.batches(
      records(config), seed=config.seed, batch_size=config.rollout.prompts,
      side=setup.picture_side(setup.make_policy(config)),
      arrays=_file_task(config).rows,
    )  # fmt: skip
  share = config.data.caption_drop
  if not share:
    return read
  return lambda n: _without_captions(read(n), share, config.seed, n)


def _drawn(config: ConfigDict, with_worse: bool) -> Callable[[int], RowBatch]:
  """Images of prompts that the task draws, best first."""
  prompts, task = setup.prompt_batches(config), setup.make_task(config)
  assert task.draw

  def batch(n: int) -> RowBatch:
    chosen = prompts(n)
    key = rng.stream_key(config.seed, "dataset", n)
    images = np.asarray(task.draw(key, chosen, with_worse=with_worse))
    scores = np.ones(images.shape[:2], np.float32)
    scores[:, 1:] = (images[:, 1:] == images[:, :1]).all((2, 3, 4))
    return RowBatch(chosen, images, scores)

  return batch


def _without_captions(
  batch: RowBatch, share: float, seed: int, step: int
) -> RowBatch:
  """The batch with a share of its captions empty."""
  generator = np.random.default_rng([int(seed) % 2**63, step])
  kept = generator.random(len(batch.scores)) >= share
  prompts = batch.prompts

  def keep(x: ArrayLike | None) -> np.ndarray | None:
    if x is None:
      return None
    return np.asarray(x) * kept[:, None].astype(np.asarray(x).dtype)

  prompts = dataclasses.replace(
    prompts, tokens=keep(prompts.tokens), text=keep(prompts.text)
  )
  return dataclasses.replace(batch, prompts=prompts)


def image_shapes(policy: Policy, plan: feeds.Plan) -> jax.ShapeDtypeStruct:
  """The images of an iteration, as `samples` takes them."""
  shape = plan.prompts, plan.group, *setup.picture_side(policy), 3
  return jax.ShapeDtypeStruct(shape, jnp.uint8)


def samples(
  policy: Policy,
  images: ArrayLike,
  plan: feeds.Plan,
  decoder: Params | None = None,
) -> Trajectory:
  """Images as finished samples, one micro-batch encoded after the other.

  Args:
    policy: the policy.
    images: uint8 [P, G, H, W, 3].
    plan: of the run.
    decoder: parameters of the autoencoder, which gives the mean of its latents.
  """
  layout = setup.spread_rows(plan.layout)
  flat = rollout.from_groups(jnp.asarray(images), layout)

  def encode(some: Array) -> Array:
    return setup.to_latents(policy, some.astype(jnp.float32) / 255, decoder)

  latents = jax.lax.map(encode, rollout.to_chunks(flat, layout.chunks))
  latents = jnp.asarray(rollout.from_chunks(latents))
  return Trajectory(
    latents=latents[None],
    log_probs=jnp.zeros((len(plan.table.t), len(latents))),
    velocities=None,
    prompt_index=jnp.asarray(layout.prompt_index),
    member=jnp.asarray(layout.member),
    mask=jnp.asarray(layout.mask),
  )
