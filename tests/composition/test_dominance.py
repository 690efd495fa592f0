"""Pareto sets and chains against brute force."""

import itertools

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases

W = cases.WEIGHTS


def beats(scores, one, other):
  pairs = [(scores[k][one], scores[k][other]) for k in W]
  return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@pytest.mark.parametrize("among", ["group", "batch"])
@pytest.mark.parametrize("seed", range(3))
def test_pareto_is_what_no_other_beats(seed, among):
  scores, mask = cases.draw(seed, steps=4)
  valid = cases.valid(scores, mask)
  places = [tuple(x) for x in np.argwhere(valid)]
  kept = np.zeros(mask.shape, bool)
  for one in places:
    rivals = [o for o in places if among == "batch" or o[0] == one[0]]
    kept[one] = not any(beats(scores, o, one) for o in rivals)
  signal, got = cases.run(composition.pareto, scores, mask, among=among)
  np.testing.assert_array_equal(got, kept)
  assert kept.any(1)[valid.any(1)].all() or among == "batch"
  total = sum(W[k] * np.where(valid, scores[k], 0).astype(float) for k in W)
  for p, g in np.argwhere(kept):
    want = total[p, g] - total[p][valid[p]].mean()
    np.testing.assert_allclose(signal[p, g], want, rtol=1e-4, atol=1e-6)


def test_one_reward_keeps_the_best_and_its_equals():
  scores, mask, weights = cases.one((0.2, 0.9, 0.9, 0.1))
  _, kept = cases.run(composition.pareto, scores, mask, weights)
  np.testing.assert_array_equal(kept[0], [0, 1, 1, 0])


def longest(scores, members):
  """Length of the longest chain, over all subsets in order."""
  for size in range(len(members), 0, -1):
    for subset in itertools.permutations(members, size):
      if all(beats(scores, a, b) for a, b in itertools.pairwise(subset)):
        return size
  return 0


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_is_in_order_and_none_is_longer(seed):
  scores, mask = cases.draw(seed, steps=3)
  valid = cases.valid(scores, mask)
  signal, kept = cases.run(composition.chain, scores, mask)
  assert not (kept & ~valid).any()
  for p in range(cases.P):
    members = [(p, g) for g in np.flatnonzero(kept[p])]
    for one, other in itertools.combinations(members, 2):
      assert beats(scores, one, other) or beats(scores, other, one)
    every = [(p, g) for g in np.flatnonzero(valid[p])]
    assert len(members) == longest(scores, every)
  total = sum(W[k] * np.where(valid, scores[k], 0) for k in W)
  np.testing.assert_allclose(signal[kept], total[kept], rtol=1e-6)
  assert not signal[~kept].any()


def test_a_chain_by_hand():
  scores, mask, weights = cases.one(
    (0.9, 0.6, 0.5, 0.2), (0.8, 0.7, 0.9, 0.1), (0.7, 0.6, 0.5, 0.3)
  )
  _, kept = cases.run(composition.chain, scores, mask, weights)
  np.testing.assert_array_equal(kept[0], [1, 1, 0, 1])
  # A bend of one reward that keeps its order keeps the chain.
  scores["b"] = np.exp(5 * scores["b"])
  _, bent = cases.run(composition.chain, scores, mask, weights)
  np.testing.assert_array_equal(kept, bent)


def test_what_is_refused():
  scores, mask = cases.draw(0)
  with pytest.raises(UserError, match="among"):
    composition.pareto(scores, mask, W, among="all")
