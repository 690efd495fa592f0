"""Files of preferences, as `config.data.layout` and `.reading` tell to read them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import processes, reading, rng, setup, tasks
from jaxreward.data import (
  image_checks,
  images,
  preference_files,
  preference_stream,
  preference_tables,
  preferences,
)
from jaxreward.data.image_store import ImageStore
from jaxreward.data.preference_files import Tally
from jaxreward.data.preference_rows import PreferenceRow
from jaxreward.data.preference_stream import Batches, Packed
from jaxreward.data.preference_tables import PreferenceTable
from jaxreward.data.preferences import Preferences
from jaxreward.errors import UserError, nearest, require_counts
from jaxreward.reward_models import RewardModel
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Array, ArrayLike

SOURCE, HELDOUT = "train_reward.source", "train_reward.heldout"
_SHARES = ("confidence", "skip", "heldout")
_CHECKED = 20_000  # rows whose images are looked at before the start
_CHECKED_CELLS = 256  # rows with images within tables


def options(config: ConfigDict) -> dict[str, Any]:
  """How rows of preferences are read, for `preference_files.read_rows`.

  Raises:
    UserError: the field, its value and what it may be.
  """
  section, layout = config.data.reading, config.data.layout
  check_shares(config)
  if section.fit not in images.FITS:
    raise UserError(
      f'config.data.reading.fit="{section.fit}" is not known'
      f"{nearest(section.fit, images.FITS)}; there are {', '.join(images.FITS)}"
    )
  scale = tuple(layout.scale) or None
  if scale and not (
    len(scale) == 2
    and all(isinstance(x, int | float) for x in scale)
    and scale[0] < scale[1]
  ):
    raise UserError(
      f"config.data.layout.scale={scale}: two numbers, the smaller first"
    )
  columns = layout.columns.to_dict()
  preference_files.layout_of(layout.name, columns)
  return dict(
    layout=layout.name, columns=columns,
    scale=scale, images=section.images, split=section.split,
    confidence=section.confidence, skip=section.skip,
  )  # fmt: skip


def check_shares(config: ConfigDict) -> None:
  """Refuses shares of `config.data.reading` out of their range."""
  for name in _SHARES:
    if not 0 <= (share := config.data.reading[name]) < 1:
      raise UserError(
        f"config.data.reading.{name}={share:g}: a share lies in [0, 1)"
      )


def rows_of(
  config: ConfigDict, path: str, field: str, tally: Tally | None = None
) -> Iterator[PreferenceRow]:
  """Rows of a file by the config; see `preference_files.read_rows`."""
  return preference_files.read_rows(
    path, field=f"config.{field}", tally=tally, **options(config)
  )


@dataclasses.dataclass(frozen=True)
class Sides:
  """What a reward model is trained and tested on.

  Attributes:
    train: training rows.
    heldout: held-out rows.
    counts: of rows by what became of them.
  """

  train: PreferenceTable
  heldout: PreferenceTable
  counts: Mapping[str, int]


def tokenizer(
  config: ConfigDict, model: RewardModel
) -> preference_tables.Tokenize:
  """How prompts of a file are tokenized.

  Raises:
    UserError: the model reads word ids that the task does not have.
  """
  task, read_texts = setup.make_task(config), model.backbone.read
  tokenize = task.tokenize
  if read_texts is not None:
    tokenize = functools.lru_cache(1 << 16)(lambda text: read_texts([text])[0])
  if tokenize is None:
    raise UserError(
      f'config.data.grammar="{task.name}": its prompts are no word ids, which'
      ' the reward model reads; set it to "scenes", or'
      ' config.reward_model.backbone.name to "clip" or "siglip"'
    )
  return tokenize


def load(
  config: ConfigDict, model: RewardModel
) -> tuple[Sides, list[image_checks.PictureRow]]:
  """(both sides of `train_reward.source`, images to check); no pixels.

  Args:
    config: of the run.
    model: whose words are read.

  Raises:
    UserError: by file and row; a side without rows; an image on both; training
      rows that are ties alone.
  """
  section = config.train_reward
  tokenize, tally = tokenizer(config, model), Tally()
  checks = _Checks()
  rows = checks.watch(rows_of(config, section.source, SOURCE, tally))
  if section.heldout:
    train, heldout = (preference_tables.Builder(tokenize) for _ in range(2))
    for row in rows:
      train.add(row)
    second = Tally()
    others = rows_of(config, section.heldout, HELDOUT, second)
    for row in checks.watch(others):
      heldout.add(row)
    tally.add(second)
  else:
    train, heldout = preference_tables.sides_of(
      rows, tokenize=tokenize, split_of=setup.make_task(config).split_of,
      share=config.data.reading.heldout,
    )  # fmt: skip
  name = reading.name(section.source)
  preference_tables.check_sides(train, heldout, name)
  preference_tables.require_answers(train, name)
  first = train.table()
  sides = Sides(
    first,
    heldout.table(first.rows.users, first.rows.aspect_names),
    tally.counts(),
  )
  return sides, checks.rows


class _Checks:
  """The images of the first rows, for `image_checks`."""

  def __init__(self):
    self.rows: list[image_checks.PictureRow] = []
    self.cells = 0

  def watch(self, rows: Iterator[PreferenceRow]) -> Iterator[PreferenceRow]:
    for row in rows:
      self.cells += row.images[0].cell is not None
      if len(self.rows) < _CHECKED and self.cells <= _CHECKED_CELLS:
        self.rows.append(preference_files.checked(row))
      yield row


def check_frames(config: ConfigDict) -> None:
  """Refuses frames of what is no file.

  Raises:
    UserError: names the field and the fix.
  """
  frames, source = config.train_reward.frames, config.train_reward.source
  require_counts("config.train_reward.", least=0, frames=frames)
  if frames and source in tasks.OWN:
    raise UserError(
      f'config.train_reward.frames={frames}: config.train_reward.source="{source}"'
      " draws images; set it to 0, or name a file of clips"
    )


def stores(config: ConfigDict, model: RewardModel, sides: Sides):
  """The images of the two sides, at the model's size."""
  section, shape = config.data.reading, model.backbone.image_shape
  make = lambda table: ImageStore(
    table.files, table.places, (shape[0], shape[1]),
    fit=section.fit, cache=section.cache, skips=section.skip > 0,
    frames=config.train_reward.frames,
  )  # fmt: skip
  return make(sides.train), make(sides.heldout)


def batches(
  config: ConfigDict, table: PreferenceTable, store: ImageStore, mesh: Any
) -> Batches:
  """Batches of the training rows, this process's part of each."""
  section = config.train_reward
  pad_to = mesh_lib.round_up_to_devices(section.rows, mesh)
  return preference_stream.batches(
    table, store, seed=config.seed, rows=section.rows, pad_to=pad_to,
    group_size=min(section.pictures_per_row, table.rows.members.shape[1]),
    process=(processes.index(), processes.count()),
  )  # fmt: skip


def abstract(config: ConfigDict, model: RewardModel, mesh: Any) -> Packed:
  """Shapes of a batch of a file, with all of `train_reward.pictures_per_row`."""
  options = config.train_reward
  rows = mesh_lib.round_up_to_devices(options.rows, mesh)
  count, side = options.pictures_per_row, model.backbone.image_shape
  frames = (options.frames,) if options.frames else ()
  place = NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES))
  shape: Any = lambda dims, dtype: jax.ShapeDtypeStruct((rows, *dims), dtype)
  batch = jax.eval_shape(lambda: preferences.some_rows(rows, count))
  batch = dataclasses.replace(
    batch,
    images=shape((count, *frames, *side), np.uint8),
    tokens=shape((model.backbone.length,), np.int32),
    details=dataclasses.replace(
      batch.details, keys=None,
      context=shape(side, np.uint8) if model.context else None,
    ),
  )  # fmt: skip
  packed = Packed(batch, shape((), bool) if model.context else None)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), packed
  )


def log(config: ConfigDict, sides: Sides) -> None:
  """Logs how many rows there are."""
  train, heldout = sides.train, sides.heldout
  answers = int(np.isfinite(np.asarray(train.rows.prob)).sum()) // 2
  logging.info(
    "%s: %d rows of %d images with %d answers, %d rows held out%s",
    config.train_reward.source, len(train), len(train.files), answers,
    len(heldout), _about(train.rows),
  )  # fmt: skip


def _about(rows: Any) -> str:
  parts: Sequence[str] = [
    f"{len(rows.users)} users" if rows.users else "",
    f"aspects {', '.join(rows.aspect_names)}" if rows.aspect_names else "",
    "with source images" if rows.context is not None else "",
  ]
  return "".join(f"; {part}" for part in parts if part)


def stage_of(step: ArrayLike | int, steps: int, stages: int) -> Array:
  """int32, the part of a curriculum of equal parts that a step belongs to, from 0.

  Args:
    step: from 0 on; from `steps` on it is in the last part.
    steps: of the training.
    stages: their number.
  """
  return jnp.minimum(jnp.asarray(step) * stages // steps, stages - 1)


def of_stage(rows: Preferences, stage: ArrayLike, stages: int) -> Preferences:
  """Rows that name the images of one of `stages` equal parts of `images`."""
  size = rows.images.shape[0] // stages
  members = jnp.asarray(rows.members) + jnp.asarray(stage) * size
  return dataclasses.replace(rows, members=members)


def make_batch(config: ConfigDict, mesh):
  """(rows, step) -> the batch of that step, spread over the devices.

  The rows are all training rows, of which a batch is drawn, or a packed batch.
  Clean estimates take turns, one look after the other; see
  `train_reward.sampling.estimates`.
  """
  options = config.train_reward
  stages = len(options.sampling.get("estimates", ()))
  rows = mesh_lib.round_up_to_devices(options.rows, mesh)
  spread = PartitionSpec(mesh_lib.BATCH_AXES)

  def batch_of(data, n):
    key = rng.stream_key(config.seed, "preference batch", n)
    if isinstance(data, preference_stream.Packed):
      batch = preference_stream.unpacked(data, key)
    else:
      if stages:
        stage = stage_of(n, options.steps, stages)
        data = of_stage(data, stage, stages)
      batch = preferences.draw_batch(
        data, key, rows=rows,
        group_size=min(options.pictures_per_row, data.members.shape[1]),
      )  # fmt: skip
      batch = preferences.keep_first(batch, options.rows)
    return jax.lax.with_sharding_constraint(batch, spread)

  return batch_of
