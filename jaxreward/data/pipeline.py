"""Batches of prompts as a function of the step, through Grain.

    prompts --by category--> decks --mix--> one stream --batch--> PromptBatch

Batch n is `batches(n)`: the same in any process, at any time, in any order, so
the step is the whole state. Each category is a deck that is dealt completely
and then reshuffled; decks are interleaved in proportion to their weights. A
deck is dealt in two halves, each shuffled separately, so that the end of one
round cannot start the next, and no batch holds a prompt twice unless its
category has fewer prompts than the batch needs; a repeated prompt gets another
id, hence other noise.

NumPy shuffles: Grain's own shuffle takes milliseconds per element for sets as
small as a category.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxreward.data import pictures
from jaxreward.data import prompts as prompts_lib
from jaxreward.data.prompts import Prompt
from jaxreward.data.repeats import distinct_ids
from jaxreward.errors import UserError
from jaxreward.types import PromptBatch

_ENDLESS = 1 << 40
_ALL = 6  # number of the deck that holds every category
_BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class PromptBatches:
  """Random access to batches of prompts.

  Attributes:
    dataset: element n is the PromptBatch of step n.
  """

  dataset: grain.MapDataset

  def __call__(self, step: int) -> PromptBatch:
    """The batch of a step, counted from 0, as NumPy arrays."""
    return self.dataset[step]  # pyrefly: ignore

  def iterate(self, step: int = 0) -> grain.DatasetIterator:
    """Grain's checkpointable iterator from a step on.

    The state of `get_state()` and `set_state(...)` is a small JSON object.
    """
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator = iter(self.dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": step})
    return iterator


@functools.lru_cache(maxsize=128)
def _round(
  seed: int, deck: int, size: int, halved: bool, number: int
) -> np.ndarray:
  """Order in which a deck of `size` cards is dealt in round `number`."""
  order = np.random.default_rng([seed, deck]).permutation(size)
  if halved:
    fresh = np.random.default_rng([seed, deck, number + 1])
    half = size // 2
    order = np.concatenate(
      [fresh.permutation(order[:half]), fresh.permutation(order[half:])]
    )
  return order


def _deck(rows: np.ndarray, window: int, seed: int, deck: int):
  """Endless stream of `rows`, each at most once in `window` if possible.

  A deck too small to halve keeps one order for all rounds.
  """
  halved = len(rows) >= 2 * window

  def deal(position):
    number, card = divmod(int(position), len(rows))
    return rows[_round(seed, deck, len(rows), halved, number)[card]]

  return grain.MapDataset.range(_ENDLESS).map(deal)


def _check_weights(
  kind_weights: Sequence[float],
  numbers: Sequence[int],
  categories: Mapping[int, str],
) -> list[float]:
  """Weights of the categories that have prompts."""
  values = tuple(kind_weights)
  order = list(categories.values())
  wrong = [w for w in values if not (w >= 0 and math.isfinite(w))]
  if len(values) != len(order) or wrong:
    raise UserError(
      f"data.kind_weights={values}: {len(order)} numbers >= 0 are needed, in the"
      f" order {', '.join(order)}"
    )
  weight_of = dict(zip(categories, values, strict=True))
  weights = [weight_of[k] for k in numbers]
  if not sum(weights):
    names = ", ".join(categories[k] for k in numbers)
    raise UserError(
      f"data.kind_weights={values}: all weights of the kinds of these prompts"
      f" ({names}) are 0"
    )
  return weights


def _stream(
  prompts: Sequence[Prompt],
  seed: int,
  batch_size: int,
  kind_weights: Sequence[float] | None,
  categories: Mapping[int, str],
) -> grain.MapDataset:
  """Endless stream of row numbers of `prompts`."""
  if kind_weights is None:
    return _deck(np.arange(len(prompts)), batch_size, seed, _ALL)
  category_of = np.array([p.category for p in prompts])
  numbers = sorted(set(category_of.tolist()))
  weights = _check_weights(kind_weights, numbers, categories)
  weighted = [(k, w) for k, w in zip(numbers, weights, strict=True) if w > 0]
  total = sum(w for _, w in weighted)
  decks = [
    _deck(
      np.flatnonzero(category_of == number),
      math.ceil(batch_size * weight / total) + 1,
      seed,
      number,
    )
    for number, weight in weighted
  ]
  return grain.MapDataset.mix(decks, [w for _, w in weighted])


def process_rows(size: int, index: int, count: int) -> slice:
  """Rows of a batch that a process reads: an equal, contiguous part."""
  if size % count or not 0 <= index < count:
    raise UserError(
      f"a batch of {size} prompts does not divide among {count} processes"
      f" (this one is {index}); choose a multiple of {count}"
    )
  share = size // count
  return slice(index * share, (index + 1) * share)


def _padded(table: PromptBatch, rows: np.ndarray, size: int) -> PromptBatch:
  """Rows of a table, padded to `size`."""
  index = np.full(size, -1, np.int64)
  index[: len(rows)] = rows
  mask = index >= 0

  def take(column):
    column = np.asarray(column)[index]
    column[~mask] = 0
    return column

  return jax.tree.map(take, table).replace(mask=mask)


def seeds_of(index: int, size: int) -> np.ndarray:
  """uint32 [size], of the rows of batch `index`: no two rows have one seed."""
  return np.arange(size, dtype=np.uint32) + np.uint32(index * size)


def prompt_batches(
  prompts: Sequence[Prompt],
  *,
  seed: int,
  batch_size: int,
  kind_weights: Sequence[float] | None = None,
  categories: Mapping[int, str] = types.MappingProxyType({}),
  rows: Callable[..., PromptBatch] = prompts_lib.batch,
  attach: Callable[..., PromptBatch] = pictures.attach,
  pad_to: int | None = None,
  process: tuple[int, int] = (0, 1),
  side: int | tuple[int, int] = 0,
) -> PromptBatches:
  """Endless batches of prompts, categories in proportion to their weights.

  Args:
    prompts: one split.
    seed: of the shuffles.
    batch_size: prompts per step, all processes together.
    kind_weights: in the order of the categories; those without prompts are
      skipped. None samples all prompts equally often, whatever their category.
    categories: number -> name.
    rows: prompts -> their arrays, without images.
    attach: (batch, its prompts, side) -> the batch with their images.
    pad_to: rows of the arrays; more than `batch_size` adds masked rows.
    process: (index, count), as `(jax.process_index(), jax.process_count())`,
      to get only that process's rows; concatenated over processes they are the
      rows of the step in the order of a single process.
    side: pixels of images that are read from files, or (height, width).
  """
  pad_to = batch_size if pad_to is None else pad_to
  if not prompts:
    raise UserError("there are no prompts to draw from")
  if batch_size < 1 or pad_to < batch_size:
    raise UserError(
      f"a batch of {batch_size} prompts in {pad_to} rows cannot be made"
    )
  local_rows = process_rows(pad_to, *process)
  table = rows(prompts)
  stream = _stream(
    prompts, int(seed) % 2**63, batch_size, kind_weights, categories
  )

  def assemble(numbers):
    batch = take_rows(table, numbers, pad_to)
    padded = [*numbers, *[numbers[0]] * (pad_to - len(numbers))]
    batch = attach(batch, [prompts[r] for r in padded], side)
    return jax.tree.map(lambda x: x[local_rows], batch)

  return PromptBatches(stream.batch(batch_size).map(assemble))


def caption_batches(
  prompts: Sequence[Prompt],
  *,
  wrong: Callable[..., PromptBatch],
  rows: Callable[..., PromptBatch],
  categories: Mapping[int, str],
  seed: int,
  batch_size: int,
  corruption: float,
  kind_weights: Sequence[float],
  steps: int,
) -> grain.MapDataset:
  """Captions and what is rendered for them, a part of which is wrong.

  Args:
    prompts: one split.
    wrong: (batch, share, generator) -> the batch with that share of rows wrong.
    rows: as in `prompt_batches`.
    categories: as in `prompt_batches`.
    seed: of the shuffles and of what is wrong.
    batch_size: prompts per step.
    corruption: the share.
    kind_weights: as in `prompt_batches`.
    steps: of the dataset.

  Returns:
    Batches by step number, the same in every process and after a resume; element n
    is {"scene": PromptBatch of the images, "caption": int32 [B, L], "seed": uint32
    [B] to draw what is free}.
  """
  stream = prompt_batches(
    prompts, seed=seed, batch_size=batch_size, kind_weights=kind_weights,
    categories=categories, rows=rows,
  )  # fmt: skip

  def apply(index, rng):
    batch = stream(int(index))
    return {
      "scene": wrong(batch, corruption, rng), "caption": batch.tokens,
      "seed": seeds_of(index, batch_size),
    }  # fmt: skip

  return grain.MapDataset.range(steps).seed(seed).random_map(apply)


def row_dataset(
  count: int, *, seed: int, batch_size: int, deck: int = 0
) -> grain.MapDataset:
  """Element n: int [batch_size], row numbers of step n, dealt as prompts are.

  Decks of other numbers are shuffled independently under one seed.
  """
  rows = _deck(np.arange(count), batch_size, int(seed) % 2**63, deck)
  return rows.batch(batch_size)


def row_stream(
  count: int, *, seed: int, batch_size: int
) -> Callable[[int], np.ndarray]:
  """Step -> int [batch_size], row numbers below `count`, dealt as prompts are."""
  stream: Any = row_dataset(count, seed=seed, batch_size=batch_size)
  return lambda step: stream[step]


def take_rows(table: PromptBatch, rows: np.ndarray, size: int) -> PromptBatch:
  """Rows of a table of prompts, padded to `size`, with distinct ids."""
  return distinct_ids(_padded(table, rows, size))


def place_batch(
  mesh: Mesh, *, replicated: bool = False, local: bool = False
) -> Callable[[Any], Any]:
  """Puts a host batch on the mesh.

  Args:
    mesh: rows are split over its axes "data" and "fsdp".
    replicated: a full copy on every device instead.
    local: the batch holds only this process's rows, not all of them.

  Returns:
    tree of NumPy arrays -> tree of global arrays.
  """
  axes = tuple(a for a in _BATCH_AXES if a in mesh.shape)
  spec = PartitionSpec() if replicated else PartitionSpec(axes)
  where = NamedSharding(mesh, spec)

  def put(x):
    x = np.asarray(x)
    if local:
      return jax.make_array_from_process_local_data(where, x)
    return jax.make_array_from_callback(x.shape, where, lambda i: x[i])

  return lambda batch: jax.tree.map(put, batch)
