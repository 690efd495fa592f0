"""Rows of files instead of a rollout: a dataset, or preferences.

`config.data.dataset` gives images with captions and `config.data.preferences`
pairs of them; lists and ratings become pairs, or with `config.data.list_size` stay
whole. Images become finished samples with the layout of a rollout's, in groups with
the file's scores, so that feeds and objectives need no change. Nothing is sampled
and no reward is evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import feeds, processes, rng, setup, tasks, user_code
from jaxreward.data import rows
from jaxreward.data.encoding_cache import EncodingCache
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.prompts import SPLITS, Prompt
from jaxreward.data.rows import Record, RowBatch
from jaxreward.data.sources import Parse
from jaxreward.data.users import Users
from jaxreward.errors import UserError, nearest, shown
from jaxreward.flow import rollout, times
from jaxreward.setup import (
  checks,
  preference_data,
  row_scores,
  row_users,
  videos,
)
from jaxreward.setup.policies import make_autoencoder
from jaxreward.types import Array, ArrayLike, Params, Policy, Trajectory

ORIGINS = ("dataset", "preferences")
ENCODINGS = "encodings"  # in the working directory
SCORE = "file"  # the name of the one score that a row's images have
WEIGHTS = {SCORE: 1.0}


def origin(config: ConfigDict) -> str:
  """Where samples come from: "rollout", "dataset" or "preferences".

  Raises:
    UserError: the config names two files.
  """
  origins = [name for name in ORIGINS if config.data[name]]
  if len(origins) > 1:
    raise UserError(
      f"config.data.preferences={shown(config.data.preferences, 60)}:"
      f" config.data.dataset={shown(config.data.dataset, 60)} gives rows too;"
      " set one of them"
    )
  return origins[0] if origins else "rollout"


def group(config: ConfigDict) -> int:
  """Samples per prompt: of the rollout, or images per row of a file."""
  name = origin(config)
  if name == "preferences":
    return config.data.list_size or 2
  return 1 if name == "dataset" else config.rollout.group


def offers(config: ConfigDict) -> Mapping[str, feeds.Feed]:
  """The feeds that can make rows from the samples of this origin."""
  every = feeds.FEEDS
  names = {
    "rollout": [name for name in every if name != "dataset"],
    "dataset": ["dataset", "predicted"],
    "preferences": ["pairs", "noised", "lists"],
  }[origin(config)]
  if origin(config) != "dataset":
    return {name: every[name] for name in names}
  return {name: _without_advantage(every[name]) for name in names}


def _without_advantage(feed: feeds.Feed) -> feeds.Feed:
  """The feed of rows that no reward has scored."""
  offers = {k: v for k, v in feed.offers.items() if k != "advantage"}
  return dataclasses.replace(feed, offers=offers)


def is_drawn(config: ConfigDict) -> bool:
  """Whether the path is the name of a task, which renders the rows itself."""
  name = origin(config)
  return name != "rollout" and config.data[name] in tasks.OWN


def has_users(config: ConfigDict) -> bool:
  """Whether the policy reads who answered, and rows may say so."""
  is_pairs = origin(config) == "preferences"
  return is_pairs and setup.make_policy(config).user > 0


def where(config: ConfigDict) -> str:
  """The objective's field and the origin of its rows, for error messages."""
  start = "objective.name"
  name = origin(config)
  if name == "rollout":
    return start
  return (
    f'{start}="{shown(config.objective.get("name"), 60)}" on config.data.{name}'
  )


def bind_density(config: ConfigDict) -> Callable[[Array], Array]:
  """Uniform draws -> the times at which samples are noised."""
  density = config_lib.bind(
    config.align.density, times.DENSITIES, field="align.density", positional=1
  )
  with user_code.blamed("config.align.density", density, host=False):
    checks.validate_options(
      density, jax.ShapeDtypeStruct((2,), jnp.float32), field="align.density"
    )
  return density


def frames_of(policy: Policy, config: ConfigDict) -> int:
  """Frames of a video that the policy makes; 0 for images."""
  if not videos.is_video(policy):
    return 0
  autoencoder = make_autoencoder(config)
  params = jax.eval_shape(autoencoder.init, jax.random.key(0))
  latents = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  return jax.eval_shape(autoencoder.decode, params, latents).shape[1]


def encoder(config: ConfigDict, policy: Policy) -> Callable[..., Array]:
  """(images [B, H, W, 3] or videos [B, F, H, W, 3], decoder) -> latents."""
  if not videos.is_video(policy):
    return functools.partial(setup.to_latents, policy)
  encode = make_autoencoder(config).encode
  return lambda x, decoder: encode(decoder, x).astype(jnp.float32)


def draws_files(config: ConfigDict, policy: Policy) -> bool:
  """Whether a task's own rows have to be written as files first."""
  if origin(config) != "preferences" or not is_drawn(config):
    return False
  if policy.takes_source or videos.is_video(policy):
    return True
  side = setup.make_task(config).drawn_side
  is_other = setup.picture_side(policy) != (side, side)
  return policy.to_latents is not None and is_other


def check(config: ConfigDict, policy: Policy) -> None:
  """Refuses options that do not work on files, before any file is read."""
  name = origin(config)
  row_users.check(config, policy, name, is_drawn(config))
  row_scores.check(config, policy, name)
  size = config.data.list_size
  if size and (size < 3 or name != "preferences" or is_drawn(config)):
    raise UserError(
      f"config.data.list_size={size}: rows of a file of config.data.preferences"
      " are lists of up to so many images, 3 or more; 0 takes pairs of them"
    )
  if size and policy.user:
    raise UserError(
      f"config.data.list_size={size}: users are known by pairs; set it to 0"
    )
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
  for option, is_default in (
    ("branch", config.rollout.branch.members == 1),
    ("start", config.rollout.start.name == "noise"),
  ):
    if not is_default:
      raise UserError(
        f"config.rollout.{option}: samples come from files, and nothing is drawn;"
        " leave it at its default"
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
  if videos.is_video(policy) and name == "dataset":
    raise UserError(
      f'{field}: its rows are images with words, and "{config.model.name}" makes'
      ' videos; take config.job="finetune" (docs/finetune.md)'
    )
  side = setup.picture_side(policy)
  if policy.to_latents is None and policy.latent_shape != (*side, 3):
    raise UserError(
      f'config.autoencoder.name="none": the policy "{config.model.name}" works'
      f" on latents, and images of config.data.{name} have to be encoded; name"
      " an autoencoder"
    )
  if is_drawn(config) and not draws_files(config, policy):
    _check_drawn(config, field, side)


def _check_drawn(config: ConfigDict, field: str, side: tuple[int, int]) -> None:
  task = setup.make_task(config)
  drawable = [name for name, t in tasks.TASKS.items() if t.draw is not None]
  if task.draw is None:
    raise UserError(
      f"{field}: {drawable[0]} are drawn for prompts of the {drawable[0]} alone; name"
      f' a file, or set config.data.source to "{drawable[0]}"'
    )
  size = task.drawn_side
  if side != (size, size):
    raise UserError(
      f"{field}: {task.name} have {size} pixels a side, and the policy draws"
      f" {side[0]} x {side[1]}; name a file of images"
    )


def records(config: ConfigDict) -> list[Record]:
  """The training rows of the file; empty if a task renders them.

  With the grammar of the scenes, rows of held-out prompts are skipped.

  Raises:
    UserError: names the file, its line and the mistake.
  """
  name = origin(config)
  if name == "rollout" or is_drawn(config):
    return []
  field, rows_of_file = f"config.data.{name}", of_every_split(config)
  trained = [r for r in rows_of_file if r.prompt.split == "train"]
  if len(trained) < len(rows_of_file) and processes.is_first():
    logging.info(
      "%s: %d of %d rows are of prompts that are held out, and left out", field,
      len(rows_of_file) - len(trained), len(rows_of_file),
    )  # fmt: skip
  start = f"{field}={shown(config.data[name], 60)}"
  if not trained:
    raise UserError(
      f"{start}: all {len(rows_of_file)} rows are of prompts that are held out; give"
      " rows of others"
    )
  if all(r.is_tie for r in trained):
    raise UserError(
      f"{start}: of the {len(trained)} pairs whose prompts are not held out none"
      " has an answer"
    )
  return trained


def of_every_split(config: ConfigDict) -> list[Record]:
  """All rows of the file.

  Raises:
    UserError: names the file, its line and the mistake.
  """
  name = origin(config)
  field, path = f"config.data.{name}", config.data[name]
  if name == "dataset":
    preference_data.check_shares(config)
    section = config.data.reading
    if section.fit != "crop":
      raise UserError(
        f'config.data.reading.fit="{shown(section.fit)}": images of'
        ' config.data.dataset are cut to their size; use "crop"'
      )
    return rows.read_dataset(
      path, _parser(config), field,
      columns=config.data.layout.columns.to_dict(), images=section.images,
      split=section.split, skip=section.skip,
      takes_source=setup.make_policy(config).takes_source and not videos.is_video(
        setup.make_policy(config)
      ),
    )  # fmt: skip
  policy = setup.make_policy(config)
  source = "frame" if videos.is_video(policy) else "source"
  return rows.read_preferences(
    path, _parser(config), field, group=group(config),
    source=source if policy.takes_source else "",
    **preference_data.options(config),
  )  # fmt: skip


def file_task(config: ConfigDict) -> tasks.Task:
  """The task, on the prompts of the file."""
  task = tasks.TASKS.get(config.data.grammar)
  is_file = origin(config) == "preferences" and not is_drawn(config)
  if is_file and task is not None and not task.reads_files:
    return dataclasses.replace(task, parse=_of_own(task))
  return tasks.get(config.data.grammar, config.data[origin(config)])


def _of_own(task: tasks.Task) -> Parse:
  """Text -> a prompt of a task that words its own edits; of the training split."""

  @functools.cache
  def prompts() -> dict[str, Prompt]:
    every = [p for split in SPLITS for p in task.prompts(split)]
    return {p.text: dataclasses.replace(p, split="train") for p in every}

  def parse(text: str) -> Prompt:
    words = " ".join(text.split())
    if words not in prompts():
      raise UserError(
        f'"{shown(words)}" is no instruction of config.data.grammar='
        f'"{task.name}"{nearest(words, prompts())}'
      )
    return prompts()[words]

  return parse


def _parser(config: ConfigDict) -> Parse:
  """Text -> prompt; refuses categories that the policy does not know."""
  categories, task = setup.make_policy(config).kinds, file_task(config)

  def parse(text: str) -> Prompt:
    prompt = task.parse(text)
    category = task.categories[prompt.category]
    if categories and category not in categories:
      raise UserError(
        f'the prompt "{shown(text)}" is of the kind'
        f' "{category}", and the policy knows'
        f" {', '.join(categories)} alone"
      )
    return prompt

  return parse


def checked(config: ConfigDict) -> tuple[list[PictureRow], list[str]]:
  """(images of the rows, for the image checks; their captions)."""
  file_records = records(config)
  if has_users(config) and not is_drawn(config):
    row_users.parted(config, file_records)
  return rows.checked(file_records), [r.prompt.text for r in file_records]


def batches(config: ConfigDict) -> Callable[[int], RowBatch] | None:
  """Rows of an iteration, a function of the seed and the iteration alone.

  None for a rollout.
  """
  name = origin(config)
  if name == "rollout":
    return None
  if is_drawn(config):
    if has_users(config):
      read_rows = _drawn_of_users(config)
    else:
      read_rows = _drawn(config, is_pairs=name == "preferences")
  else:
    file_records, parts = records(config), None
    policy = setup.make_policy(config)
    if name == "dataset" and policy.takes_source:
      file_records = [_of_edit(record) for record in file_records]
    if has_users(config):
      parts = row_users.parted(config, file_records)
      file_records = parts.learned
    if encoding_cache(config, policy, epath.Path(".")) and processes.is_first():
      _log_cache(config, policy, len(file_records))
    read_rows = rows.batches(
      file_records, seed=config.seed, batch_size=config.rollout.prompts,
      side=setup.picture_side(policy),
      arrays=file_task(config).rows, users=None if parts is None else [*parts.shown],
      frames=frames_of(policy, config), group=group(config),
    )  # fmt: skip
    if parts is not None:
      read_rows = _with_users(config, read_rows, parts.users(config))
  share = config.data.caption_drop
  if not share:
    return read_rows
  return lambda n: _without_captions(read_rows(n), share, config.seed, n)


def _of_edit(record: Record) -> Record:
  """A row of a dataset that starts from its "image", with its "target" alone."""
  files = {"target": record.files["target"]}
  return dataclasses.replace(record, files=files, source=record.files["image"])


def _drawn(config: ConfigDict, is_pairs: bool) -> Callable[[int], RowBatch]:
  """Images of prompts, rendered by the task, best first.

  Where the policy reads scores, a dataset's images are right or not, half of each.
  """
  prompts, task = setup.prompt_batches(config), setup.make_task(config)
  is_mixed = bool(row_scores.names(config)) and not is_pairs
  assert task.draw

  def batch(n: int) -> RowBatch:
    batch_prompts = prompts(n)
    key = rng.stream_key(config.seed, "dataset", n)
    images = np.asarray(
      task.draw(key, batch_prompts, with_worse=is_pairs or is_mixed)
    )
    if is_mixed:
      stream = [int(config.seed) % 2**63, zlib.crc32(b"quality"), n]
      member = np.random.default_rng(stream).integers(0, 2, len(images))
      images = images[np.arange(len(images)), member][:, None]
    scores = np.ones(images.shape[:2], np.float32)
    scores[:, 1:] = (images[:, 1:] == images[:, :1]).all((2, 3, 4))
    return RowBatch(batch_prompts, images, scores)

  return batch


def _drawn_of_users(config: ConfigDict) -> Callable[[int], RowBatch]:
  """Images of prompts, rendered by the task and preferred by planted users."""
  prompts, users = setup.prompt_batches(config), row_users.planted(config)

  def batch(n: int) -> RowBatch:
    batch_prompts = prompts(n)
    user = row_users.numbered(config, n, users, len(batch_prompts.ids))
    key = rng.stream_key(config.seed, "dataset", n)
    images, scores = row_users.pairs(config, key, batch_prompts, user)
    return RowBatch(batch_prompts, images, scores, user)

  return _with_users(config, batch, users)


def _with_users(
  config: ConfigDict, read_rows: Callable[[int], RowBatch], users: Users
) -> Callable[[int], RowBatch]:
  return lambda n: row_users.attached(config, read_rows(n), users, n)


def _without_captions(
  batch: RowBatch, share: float, seed: int, step: int
) -> RowBatch:
  """The batch with a share of its captions dropped."""
  stream = zlib.crc32(b"captions")  # a stream of its own, by step and row
  draws = [
    np.random.default_rng([int(seed) % 2**63, stream, step, row]).random()
    for row in range(len(batch.scores))
  ]
  has_caption = np.array(draws) >= share
  prompts = batch.prompts

  def keep(x: ArrayLike | None) -> np.ndarray | None:
    if x is None:
      return None
    return np.asarray(x) * has_caption[:, None].astype(np.asarray(x).dtype)

  prompts = dataclasses.replace(
    prompts, tokens=keep(prompts.tokens), text=keep(prompts.text)
  )
  return dataclasses.replace(batch, prompts=prompts)


def encoding_cache(
  config: ConfigDict, policy: Policy, workdir: epath.Path
) -> EncodingCache | None:
  """Where encoded rows of files are kept; None without encoders or files.

  config.finetune.cache="none" keeps nothing.
  """
  folder = config.finetune.cache
  is_encoded = policy.decoder is not None and policy.prompts is not None
  has_files = origin(config) != "rollout" and not is_drawn(config)
  if not (has_files and is_encoded) or folder == "none":
    return None
  return EncodingCache(folder or workdir / ENCODINGS)


def encoded_bytes(policy: Policy, images: int) -> int:
  """At most, of a row in the cache: its images, its words and its source."""
  inputs = jax.tree.leaves((policy.prompts, policy.pictures))
  beside = sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in inputs)
  return images * 4 * math.prod(policy.latent_shape) + beside


def _log_cache(config: ConfigDict, policy: Policy, count: int) -> None:
  folder = config.finetune.cache or f"WORKDIR/{ENCODINGS}"
  count = min(count, config.align.iterations * config.rollout.prompts)
  size = count * encoded_bytes(policy, group(config)) / 1e9
  logging.info(
    "encodings of up to %d rows, %.2f GB, are kept in %s; config.finetune.cache="
    "none keeps none", count, size, folder,
  )  # fmt: skip


def image_shapes(
  config: ConfigDict, policy: Policy, plan: feeds.Plan
) -> jax.ShapeDtypeStruct:
  """The images of an iteration, as `samples` takes them."""
  frames = frames_of(policy, config)
  shape = (*((frames,) if frames else ()), *setup.picture_side(policy), 3)
  return jax.ShapeDtypeStruct((plan.prompts, plan.group, *shape), jnp.uint8)


def samples(
  to_latents: Callable[..., Array],
  images: ArrayLike,
  plan: feeds.Plan,
  decoder: Params | None = None,
) -> Trajectory:
  """Images as finished samples, encoded one micro-batch at a time.

  Args:
    to_latents: see `encoder`.
    images: uint8 [P, G, H, W, 3], or videos [P, G, F, H, W, 3]; or latents
      float32 [P, G, ...], which are taken as they are.
    plan: of the run.
    decoder: parameters of the autoencoder, which gives the mean of its latents.
  """
  layout = setup.spread_rows(plan.layout)
  flat = rollout.from_groups(jnp.asarray(images), layout)

  def encode(chunk: Array) -> Array:
    return to_latents(chunk.astype(jnp.float32) / 255, decoder)

  latents = flat
  if flat.dtype == jnp.uint8:
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
