"""Batches by step: kinds, decks, padding, processes, saved positions."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreward import tasks
from jaxreward.data import pipeline
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar

SCENES = tasks.TASKS["scenes"]
TRAIN = grammar.prompts("train")
BY_ID = {p.prompt_id: p for p in TRAIN}


def _equal(left, right):
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


def test_rows_are_the_prompts():
  batch = SCENES.batches(TRAIN, seed=0, batch_size=5)(17)
  _equal(batch, grammar.batch([BY_ID[i] for i in batch.ids.tolist()]))


def test_batch_is_a_function_of_the_step():
  one = SCENES.batches(TRAIN, seed=1, batch_size=8)
  other = SCENES.batches(TRAIN, seed=1, batch_size=8)
  steps = [9, 0, 10**6, 3, 9]
  first = {n: one(n) for n in steps}
  for n in sorted(steps):
    _equal(first[n], other(n))
  assert not np.array_equal(first[0].ids, first[9].ids)
  third = SCENES.batches(TRAIN, seed=2, batch_size=8)
  assert not np.array_equal(first[0].ids, third(0).ids)


@pytest.mark.turns(3)
@pytest.mark.parametrize("batch_size", [1, 7, 16, 24])
@pytest.mark.parametrize("weights", [(1,) * 6, (1, 2, 2, 1, 3, 3), (0, 1) * 3])
def test_kinds_come_in_proportion(batch_size, weights):
  batches = SCENES.batches(
    TRAIN, seed=3, batch_size=batch_size, kind_weights=weights
  )
  kinds = np.stack(
    [np.bincount(batches(n).category, minlength=6) for n in range(60)]
  )
  share = np.array(weights) / sum(weights)
  np.testing.assert_allclose(
    kinds.sum(0), 60 * batch_size * share, atol=len(weights)
  )
  assert np.abs(kinds - batch_size * share).max() < 2


def test_every_prompt_of_a_kind_once_a_round():
  prompts = grammar.prompts("train", ("counting",))
  count = len(prompts)
  batches = SCENES.batches(prompts, seed=4, batch_size=count)
  rounds = [batches(n).ids for n in range(5)]
  for ids in rounds:
    assert len(set(ids.tolist())) == count
  # Twice the batch is more than the deck, so the order stays.
  np.testing.assert_array_equal(rounds[0], rounds[1])
  small = SCENES.batches(prompts, seed=4, batch_size=3)
  ids = np.concatenate([small(n).ids for n in range(2 * count)])
  ids = ids.reshape(6, count)
  assert len({tuple(row) for row in ids.tolist()}) == 6
  assert len({tuple(sorted(row)) for row in ids.tolist()}) == 1


def test_shuffles_are_even():
  """Within its half, each prompt is first about equally often."""
  prompts = TRAIN[:8]
  batches = pipeline.prompt_batches(prompts, seed=5, batch_size=1)
  first = [int(batches(8 * n).ids[0]) for n in range(800)]
  counts = np.unique(first, return_counts=True)[1]
  assert len(counts) == 4  # one half begins every round
  assert counts.min() > 150 and counts.max() < 250  # 200 +- 4 sigma


@pytest.mark.turns(2)
@settings(max_examples=25, deadline=None)
@given(
  st.integers(1, 40),
  st.integers(0, 2**32),
  st.lists(st.integers(0, 4), min_size=6, max_size=6).filter(sum),
)
def test_no_prompt_twice_in_a_batch_unless_it_must(batch_size, seed, weights):
  batches = SCENES.batches(
    TRAIN, seed=seed, batch_size=batch_size, kind_weights=weights
  )
  for n in range(12):
    batch = batches(n)
    for kind in range(6):
      tokens = batch.tokens[batch.category == kind]
      there = sum(p.category == kind for p in TRAIN)
      distinct = len(np.unique(tokens, axis=0)) if len(tokens) else 0
      assert distinct == min(len(tokens), there)
    assert len(set(batch.ids.tolist())) == batch_size  # noise of its own


def test_padding_is_masked_and_changes_nothing():
  plain = SCENES.batches(TRAIN, seed=6, batch_size=5)
  padded = SCENES.batches(TRAIN, seed=6, batch_size=5, pad_to=8)
  for n in (0, 7):
    batch = padded(n)
    assert batch.mask.tolist() == [True] * 5 + [False] * 3
    _equal(jax.tree.map(lambda x: x[:5], batch), plain(n))
    assert not batch.tokens[5:].any() and not batch.extras.items[5:].any()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_read_each_row_once(count):
  whole = SCENES.batches(TRAIN, seed=7, batch_size=7, pad_to=8)
  parts = [
    SCENES.batches(TRAIN, seed=7, batch_size=7, pad_to=8, process=(i, count))
    for i in range(count)
  ]
  for n in (0, 3):
    read = [part(n) for part in parts]
    assert {len(r.ids) for r in read} == {8 // count}
    joined = jax.tree.map(lambda *x: np.concatenate(x), *read)
    _equal(joined, whole(n))


def test_iterator_goes_on_where_it_was_saved():
  batches = SCENES.batches(TRAIN, seed=8, batch_size=4)
  iterator = batches.iterate()
  for n in range(3):
    _equal(next(iterator), batches(n))
  saved = json.loads(json.dumps(iterator.get_state()))
  ahead = [next(iterator) for _ in range(4)]
  fresh = batches.iterate()
  fresh.set_state(saved)
  for n, batch in enumerate(ahead):
    _equal(next(fresh), batch)
    _equal(batch, batches(3 + n))
  _equal(next(batches.iterate(5)), batches(5))


@pytest.mark.parametrize("replicated", [False, True])
def test_placed_on_a_mesh(replicated):
  mesh = jax.make_mesh((2, 4, 1), ("data", "fsdp", "tensor"))
  batch = SCENES.batches(TRAIN, seed=9, batch_size=8)(0)
  for local in (False, True):
    placed = pipeline.place_batch(mesh, replicated=replicated, local=local)(
      batch
    )
    _equal(jax.device_get(placed), batch)
    rows = placed.tokens.addressable_shards[0].data.shape[0]
    assert rows == (8 if replicated else 1)


@pytest.mark.parametrize(
  ("options", "wanted"),
  [
    (dict(batch_size=0), "batch of 0"),
    (dict(batch_size=4, pad_to=2), "4 prompts in 2 rows"),
    (dict(batch_size=4, kind_weights=(1, 1)), "6 numbers"),
    (dict(batch_size=4, kind_weights=(-1,) * 6), "6 numbers"),
    (dict(batch_size=4, kind_weights=(float("nan"),) * 6), "6 numbers"),
    (dict(batch_size=4, kind_weights=(0,) * 6), "are 0"),
    (dict(batch_size=4, process=(0, 3)), "multiple of 3"),
    (dict(batch_size=4, process=(2, 2)), "this one is 2"),
  ],
)
def test_wrong_arguments(options, wanted):
  with pytest.raises(UserError, match=wanted):
    SCENES.batches(TRAIN, seed=0, **options)


def test_no_prompts():
  with pytest.raises(UserError, match="no prompts"):
    SCENES.batches((), seed=0, batch_size=2)
