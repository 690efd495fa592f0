"""Rewards of sets: closed forms, scipy in float64, and the greedy choice."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.linalg

from jaxreward.errors import UserError
from jaxreward.rewards import sets
from tests.rewards import folders

RNG = np.random.default_rng(0)
EVERY = np.ones(4, bool)


def test_the_vendi_score_counts_different_images():
  score = jax.jit(sets.vendi)
  one = np.tile(RNG.standard_normal((1, 6)), (4, 1)).astype(np.float32)
  assert float(score(one, EVERY)) == pytest.approx(1, abs=1e-4)
  apart = 3 * np.eye(4, 6, dtype=np.float32)
  assert float(score(apart, EVERY)) == pytest.approx(4, rel=1e-5)
  half = np.array([[1, 0], [0.5, 0.75**0.5], [9, 9], [1, 1]], np.float32)
  two = np.array([True, True, False, False])
  assert float(score(half, two)) == pytest.approx(1.754766, rel=1e-5)


def test_the_frechet_distance_against_scipy():
  x, y = RNG.standard_normal((9, 5)), 2 + RNG.standard_normal((7, 5))
  padded = np.concatenate([y, np.full((2, 5), 9.0)])
  there = np.arange(9) < 7
  cov = lambda rows: np.cov(rows, rowvar=False, bias=True)
  root = scipy.linalg.sqrtm(cov(x) @ cov(y)).real
  want = ((x.mean(0) - y.mean(0)) ** 2).sum()
  want += np.trace(cov(x) + cov(y) - 2 * root)
  distance = jax.jit(sets.frechet)
  every = np.ones(9, bool)
  as_32 = lambda a: a.astype(np.float32)
  found = distance(as_32(x), every, as_32(padded), there)
  np.testing.assert_allclose(found, want, rtol=1e-4)
  same = distance(as_32(x), every, as_32(x), every)
  assert abs(float(same)) < 1e-4
  moved = distance(as_32(x + 0.3), every, as_32(x), every)
  np.testing.assert_allclose(moved, 5 * 0.09, rtol=1e-3)


def test_the_better_set_is_at_least_as_good_as_either():
  score = lambda x: sets.vendi(x, np.ones(6, bool))
  choose = jax.jit(lambda a, b, mask: sets.better_set(score, a, b, mask))
  mask = np.arange(6) != 2
  for seed in range(5):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 6, 4)).astype(np.float32)
    chosen = np.asarray(choose(a, b, mask))
    mixed = np.where(chosen[:, None], a, b)
    ends = max(float(score(a)), float(score(b)))
    assert float(score(mixed)) >= ends - 1e-5
    # A loop in NumPy takes the same ones.
    of = lambda who, a=a, b=b: float(score(np.where(who[:, None], a, b)))
    want = np.full(6, float(score(a)) >= float(score(b)))
    for i in np.flatnonzero(mask):
      trial = want.copy()
      trial[i] = not trial[i]
      want = trial if of(trial) > of(want) else want
    np.testing.assert_array_equal(chosen, want)


def batch_of(count):
  batch, _ = folders.prompts(count)
  return batch


@pytest.mark.turns(2)
def test_twins_are_told_apart_over_all_prompts():
  """The one image that is not like all others is taken, and padding is not."""
  shot, other = RNG.uniform(0, 1, (2, 8, 8, 3)).astype(np.float32)
  images = np.tile(shot, (2, 4, 1, 1, 1))
  images[1, 3] = other
  images[0, 0, 0, 0] = np.nan
  loaded = sets.load_set()
  run = lambda reward, batch, images: np.asarray(
    next(iter(reward(images, batch, **loaded.static, params={}).values()))
  )
  scores = run(sets.set_vendi, batch_of(2), images)
  assert np.isnan(scores[0, :2]).all()
  assert scores[1, 2] == 0 and scores[1, 3] == 1
  np.testing.assert_array_equal(np.sort(scores[1].reshape(2, 2)), [[0, 1]] * 2)
  with pytest.raises(UserError, match="even"):
    run(sets.set_vendi, batch_of(2), images[:, :3])
  targets = np.stack([other, np.full_like(other, np.nan)])
  batch = dataclasses.replace(batch_of(2), target=targets)
  near = np.tile(shot, (2, 2, 1, 1, 1))
  near[0, 1] = other
  scores = run(sets.set_frechet, batch, near)
  np.testing.assert_array_equal(scores[0], [0, 1])
  assert np.isnan(scores[1]).all()


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_loss_of_inclusion_in_float64():
  """Pair by pair, with an image and a prompt that do not count."""
  f, r, o = (
    unit(RNG.standard_normal(shape)) for shape in ((4, 3, 6), (4, 6), (4, 6))
  )
  mask, known = np.ones((4, 3), bool), np.array([True, True, False, True])
  mask[0, 1] = False
  as_32 = lambda x: x.astype(np.float32)
  loss, there = sets.inclusion_loss(
    as_32(f), mask, as_32(r), as_32(o), known, 0.8
  )
  assert there.tolist() == known.tolist()
  for p in (0, 1, 3):
    for g in np.flatnonzero(mask[p]):
      terms = [
        1 - unit(f[p, g] - f[q][mask[q]].mean(0)) @ unit(r[p] - r[q])
        for q in (0, 1, 3)
        if q != p
      ]
      want = np.mean(terms) + max(0.8 - f[p, g] @ o[p], 0)
      np.testing.assert_allclose(loss[p, g], want, rtol=1e-4)


def test_inclusion_is_whole_where_differences_are_those_of_references():
  """Whatever the images share; prompts of one reference are not compared."""
  r = 0.2 * RNG.standard_normal((3, 6)).astype(np.float32)
  shared = np.float32(0.5) + 2 * r[:, None]
  args = (np.ones((3, 1), bool), r)
  loss, _ = sets.inclusion_loss(shared, *args, r, np.ones(3, bool), -9.0)
  np.testing.assert_allclose(loss, 0, atol=1e-4)
  away, _ = sets.inclusion_loss(-shared, *args, r, np.ones(3, bool), -9.0)
  np.testing.assert_allclose(away, 2, atol=1e-4)
  same = np.repeat(r[:1], 3, 0)
  _, there = sets.inclusion_loss(
    shared, args[0], same, same, np.ones(3, bool), 0.8
  )
  assert not there.any()
