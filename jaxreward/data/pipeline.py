"""Batches of prompts as a function of the step, through Grain.

    prompts --by category--> decks --mix--> one stream --batch--> PromptBatch

Batch n is `batches(n)`: the same in any process, at any time, in any order, so
the state of the data is the step. Each category is a deck that is dealt whole
and shuffled anew, and they are interleaved in proportion to their weights. A
deck is dealt in two halves, each shuffled for itself: what ends one round can
then not begin the next, and no batch holds a prompt twice unless its category
has fewer prompts than the batch needs; a repeated prompt gets another id, hence
other noise.

Shuffling is NumPy's: Grain's own takes milliseconds per element for sets as
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
    """Grain's iterator from a step on; its state is a small dictionary.

    `get_state()` and `set_state(...)` hold what JSON can, and the iterator is
    one of Grain's checkpointable kind.
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
  """Endless stream of `rows`, no row twice in `window` if there are so many.

  A deck too small to be halved keeps one order for all rounds.
  """
  halved = len(rows) >= 2 * window

  def deal(position):
    number, place = divmod(int(position), len(rows))
    return rows[_round(seed, deck, len(rows), halved, number)[place]]

  return grain.MapDataset.range(_ENDLESS).map(deal)


def _check_weights(
  kind_weights: Sequence[float],
  kinds: Sequence[int],
  categories: Mapping[int, str],
) -> list[float]:
  """Weights of the categories there are."""
  given = tuple(kind_weights)
  order = list(categories.values())
  wrong = [w for w in given if not (w >= 0 and math.isfinite(w))]
  if len(given) != len(order) or wrong:
    raise UserError(
      f"data.kind_weights={given}: {len(order)} numbers >= 0 are needed, in the"
      f" order {', '.join(order)}"
    )
  weight_of = dict(zip(categories, given, strict=True))
  chosen = [weight_of[k] for k in kinds]
  if not sum(chosen):
    names = ", ".join(categories[k] for k in kinds)
    raise UserError(
      f"data.kind_weights={given}: all weights of the kinds of these prompts"
      f" ({names}) are 0"
    )
  return chosen


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
  kind_of = np.array([p.category for p in prompts])
  kinds = sorted(set(kind_of.tolist()))
  weights = _check_weights(kind_weights, kinds, categories)
  used = [(k, w) for k, w in zip(kinds, weights, strict=True) if w > 0]
  total = sum(w for _, w in used)
  decks = [
    _deck(
      np.flatnonzero(kind_of == kind),
      math.ceil(batch_size * weight / total) + 1,
      seed,
      kind,
    )
    for kind, weight in used
  ]
  return grain.MapDataset.mix(decks, [w for _, w in used])


def process_rows(size: int, index: int, count: int) -> slice:
  """Rows of a batch that a process reads: an equal, contiguous part."""
  if size % count or not 0 <= index < count:
    raise UserError(
      f"a batch of {size} prompts does not divide among {count} processes"
      f" (this one is {index}); choose a multiple of {count}"
    )
  each = size // count
  return slice(index * each, (index + 1) * each)


def _padded(table: PromptBatch, rows: np.ndarray, size: int) -> PromptBatch:
  """Rows of a table; what is missing up to `size` is padding."""
  chosen = np.full(size, -1, np.int64)
  chosen[: len(rows)] = rows
  mask = chosen >= 0

  def take(column):
    column = np.asarray(column)[chosen]
    column[~mask] = 0
    return column

  return jax.tree.map(take, table).replace(mask=mask)


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
      left out. None takes all prompts equally often, whatever their category.
    categories: number -> name.
    rows: prompts -> their arrays, without pictures.
    attach: (batch, its prompts, side) -> the batch with their pictures.
    pad_to: rows of the arrays; more than `batch_size` adds masked rows.
    process: (index, count), as `(jax.process_index(), jax.process_count())`,
      to get one process's rows alone; all processes together hold each row of
      the step once, in the order that one process would see.
    side: pixels of pictures that are read from files, or (height, width).
  """
  pad_to = batch_size if pad_to is None else pad_to
  if not prompts:
    raise UserError("there are no prompts to draw from")
  if batch_size < 1 or pad_to < batch_size:
    raise UserError(
      f"a batch of {batch_size} prompts in {pad_to} rows cannot be made"
    )
  mine = process_rows(pad_to, *process)
  table = rows(prompts)
  stream = _stream(
    prompts, int(seed) % 2**63, batch_size, kind_weights, categories
  )

  def assemble(numbers):
    batch = take_rows(table, numbers, pad_to)
    padded = [*numbers, *[numbers[0]] * (pad_to - len(numbers))]
    batch = attach(batch, [prompts[r] for r in padded], side)
    return jax.tree.map(lambda x: x[mine], batch)

  return PromptBatches(stream.batch(batch_size).map(assemble))


def row_stream(
  count: int, *, seed: int, batch_size: int
) -> Callable[[int], np.ndarray]:
  """Step -> int [batch_size], row numbers below `count`, dealt as prompts are."""
  deck = _deck(np.arange(count), batch_size, int(seed) % 2**63, 0)
  stream: Any = deck.batch(batch_size)
  return lambda step: stream[step]


def take_rows(table: PromptBatch, rows: np.ndarray, size: int) -> PromptBatch:
  """Rows of a table of prompts, padded to `size`, each with an id of its own."""
  return distinct_ids(_padded(table, rows, size))


def place_batch(
  mesh: Mesh, *, replicated: bool = False, local: bool = False
) -> Callable[[Any], Any]:
  """Puts a host batch on the mesh.

  Args:
    mesh: rows are split over its axes "data" and "fsdp".
    replicated: a whole copy on every device instead.
    local: the batch holds this process's rows alone, not all of them.

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
