"""Batches of a file's preferences, through Grain, as a function of the step.

Batch n depends on the seed and on n alone: the same in any process, whatever the
number of processes, and after a resume. Rows are dealt as prompts are, each once a
round. Images are read by a thread ahead of the step.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.data import pipeline, preference_tables
from jaxreward.data.image_store import ImageStore
from jaxreward.data.preference_tables import PreferenceTable
from jaxreward.data.preferences import Details, PreferenceBatch, as_float
from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike

_STREAM = zlib.crc32(b"preference images")
_AHEAD = 2  # batches


@flax.struct.dataclass
class Packed:
  """A batch on its way to the device.

  Attributes:
    batch: with uint8 images and contexts, and no keys.
    has_context: bool [R]; None if no row of the file has a context.
  """

  batch: PreferenceBatch
  has_context: ArrayLike | None = None


def unpacked(packed: Packed, key: Array) -> PreferenceBatch:
  """The batch with images in [0, 1] and a key for each row."""
  batch, details = packed.batch, packed.batch.details
  rows = jnp.shape(batch.rating)[0]
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(rows))
  context = details.context
  if context is not None:
    known = jnp.asarray(packed.has_context)[:, None, None, None]
    context = jnp.where(known, as_float(context), jnp.nan)
  details = dataclasses.replace(details, keys=keys, context=context)
  return dataclasses.replace(
    batch, images=as_float(batch.images), details=details
  )


@dataclasses.dataclass
class Batches:
  """Random access to batches, the next ones read ahead.

  Attributes:
    dataset: element n is this process's rows of step n; of `batches` `Packed`.
  """

  dataset: grain.MapDataset
  _iterator: Any = None
  _next: int = -1

  def __call__(self, step: int) -> Any:
    """The batch of a step, counted from 0."""
    if self._iterator is None or step != self._next:
      options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
      self._iterator = iter(self.dataset.to_iter_dataset(options))
      self._iterator.set_state({"next_index": int(step)})
    self._next = step + 1
    return next(self._iterator)


def batches(
  table: PreferenceTable,
  store: ImageStore,
  *,
  seed: int,
  rows: int,
  group_size: int,
  pad_to: int = 0,
  process: tuple[int, int] = (0, 1),
) -> Batches:
  """Endless batches of rows that teach something.

  Args:
    table: Q rows of up to N images.
    store: their images.
    seed: of the shuffles and of the images of longer lists.
    rows: per step, all processes together.
    group_size: K of each row's images, drawn without replacement.
    pad_to: rows of the arrays; those beyond `rows` have no label.
    process: (index, count), to get only that process's rows.

  Raises:
    UserError: no row has a label.
  """
  pad_to = max(pad_to, rows)
  local = pipeline.process_rows(pad_to, *process)
  deck = np.flatnonzero(preference_tables.teaches(table.rows))
  if not len(deck):
    raise UserError(
      "there is no training row with an answer: every one is a tie"
    )
  order = pipeline.row_dataset(len(deck), seed=seed, batch_size=rows)

  def assemble(step: int, numbers: np.ndarray) -> Packed:
    index = np.full(pad_to, -1, np.int64)
    index[:rows] = deck[numbers]
    places = np.arange(pad_to)[local]
    columns = [
      _columns(table, int(index[i]), group_size, (seed, step, int(i)))
      for i in places
    ]
    return _assembled(table, store, index[local], np.stack(columns))

  return Batches(order.map_with_index(assemble))


def _columns(
  table: PreferenceTable, row: int, group: int, key: tuple[int, ...]
) -> np.ndarray:
  """int [K]: images of a row in random order, -1 beyond the last."""
  columns = np.full(group, -1, np.int64)
  members = np.asarray(table.rows.members)
  if row >= 0:
    seed, *others = key
    generator = np.random.default_rng([seed % 2**63, _STREAM, *others])
    there = generator.permutation(np.flatnonzero(members[row] >= 0))[:group]
    columns[: len(there)] = there
  return columns


def _assembled(
  table: PreferenceTable,
  store: ImageStore,
  index: np.ndarray,
  columns: np.ndarray,
) -> Packed:
  """The rows `index` [R] with the images in `columns` [R, K]; -1 for none."""
  rows, row, at = table.rows, index[:, None], np.maximum(columns, 0)
  there = (columns >= 0) & (row >= 0)
  pixels, is_read = store.take(np.where(there, rows.members[row, at], -1))
  there &= is_read
  both = there[:, :, None] & there[:, None, :]

  def of_row(x: Any, fill: Any) -> Any:
    return None if x is None else np.where(index >= 0, x[index], fill)

  def of_image(x: Any) -> Any:
    mask = there if x is None or x.ndim == 2 else there[..., None]
    return None if x is None else np.where(mask, x[row, at], np.float32(np.nan))

  def of_pair(x: Any) -> Any:
    if x is None:
      return None
    mask = both if x.ndim == 3 else both[..., None]
    values = x[row[..., None], at[:, :, None], at[:, None, :]]
    return np.where(mask, values, np.float32(np.nan))

  context, has_context = None, None
  if rows.context is not None:
    context, has_context = store.stills(of_row(rows.context, -1))
  details = Details(
    mask=there,
    aspect_ratings=of_image(rows.aspects),
    aspect_prob=of_pair(rows.aspect_prob),
    user=of_row(rows.user, np.int32(-1)),
    confidence=of_row(rows.confidence, np.float32(1)),
    context=context,
    source=np.where(there, rows.source[row, at], np.int32(-1)),
  )
  tokens = np.where(row >= 0, rows.tokens[index], np.int32(0))
  prob, rating = of_pair(rows.prob), of_image(rows.score)
  batch = PreferenceBatch(pixels, tokens, prob, rating, details)
  return Packed(batch, has_context)
