"""Batches of captions for pretraining: functions of the seed and the number."""

import functools

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.tasks.scenes import captions, grammar

TRAIN = grammar.prompts("train")
BY_TOKENS = {tuple(grammar.tokenize(p.text)): p for p in TRAIN}
ONES = (1,) * 6


@functools.cache
def batches(seed=0, size=48, corruption=0.2, weights=ONES, steps=40):
  return captions.caption_batches(
    TRAIN, seed=seed, batch_size=size, corruption=corruption,
    kind_weights=weights, steps=steps,
  )  # fmt: skip


def attributes(prompt):
  return (*(v for item in prompt.items for v in item), prompt.relation)


def captioned(batch) -> list[tuple[grammar.Prompt, grammar.Prompt]]:
  """(what the picture shows, what its caption says), row by row."""
  shown = [BY_TOKENS[tuple(row)] for row in batch["scene"].tokens]
  said = [BY_TOKENS[tuple(row)] for row in batch["caption"]]
  return list(zip(shown, said, strict=True))


def same(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


def test_a_batch_is_a_function_of_seed_and_number():
  one, again = batches(), batches()
  for n in (7, 0, 39, 7):  # in any order
    assert same(one[n], again[n])
  assert not same(one[0], one[1])
  assert not same(one[0], batches(seed=1)[0])
  assert same(one[3], batches(steps=4)[3])  # the total plays no part


def test_pictures_never_share_a_seed():
  data = batches()
  seeds = np.concatenate([data[n]["seed"] for n in range(40)])
  assert seeds.dtype == np.uint32
  assert len(np.unique(seeds)) == 40 * 48


def test_a_wrong_caption_differs_in_one_attribute_and_is_of_the_split():
  data = batches(corruption=1.0)
  for n in range(6):
    for shown, said in captioned(data[n]):  # BY_TOKENS holds the split alone
      assert shown.category == said.category
      pairs = zip(attributes(shown), attributes(said), strict=True)
      assert sum(a != b for a, b in pairs) == 1


def test_without_corruption_every_caption_is_right():
  for shown, said in captioned(batches(corruption=0.0)[0]):
    assert shown == said


def test_the_rate_of_wrong_captions():
  """Within 4 standard errors of a binomial: fails once in 16,000 by chance."""
  data, rate = batches(corruption=0.2), 0.2
  wrong = [a != b for n in range(40) for a, b in captioned(data[n])]
  error = np.sqrt(rate * (1 - rate) / len(wrong))
  assert abs(np.mean(wrong) - rate) < 4 * error


@pytest.mark.parametrize(
  "weights", [ONES, (1, 2, 2, 1, 3, 3), (0, 0, 1, 0, 2, 1)]
)
def test_kinds_are_in_proportion(weights):
  expected = 48 * np.array(weights) / sum(weights)
  for n in range(3):
    kinds = batches(weights=weights)[n]["scene"].category
    counts = np.bincount(kinds, minlength=6)
    assert np.abs(counts - expected).max() <= 1


@pytest.mark.parametrize("size", [1, 5, 16, 100])
def test_the_pattern_is_even_at_every_length(size):
  weights = (1, 1, 3, 1, 5, 5)
  pattern = captions.kind_pattern(weights, size)
  for i in range(1, size + 1):
    counts = np.bincount(pattern[:i], minlength=6)
    expected = i * np.array(weights) / sum(weights)
    assert np.abs(counts - expected).max() < 1.01


@pytest.mark.parametrize("weights", [(1, 1), (0,) * 6, (-1, 1, 1, 1, 1, 1)])
def test_weights_that_make_no_sense(weights):
  with pytest.raises(UserError, match=r"config.data.kind_weights"):
    captions.kind_pattern(weights, 4)


def test_kinds_without_prompts_are_left_out():
  few = [p for p in TRAIN if p.category in (2, 5)]
  data = captions.caption_batches(
    few, seed=0, batch_size=8, corruption=0.0, kind_weights=ONES, steps=2
  )
  counts = np.bincount(data[0]["scene"].category, minlength=6)
  assert counts.tolist() == [0, 0, 4, 0, 0, 4]


def test_a_prompt_without_a_neighbour_is_its_own():
  one = captions.one_attribute_away(TRAIN[:1])
  assert one == [[0]]


def test_neighbours_are_symmetric():
  near = captions.one_attribute_away(TRAIN)
  for i in range(0, len(TRAIN), 37):
    for j in near[i]:
      assert i == j or i in near[j]
