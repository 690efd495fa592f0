"""Discounted duplicates, against counts by hand and loops in float64."""

import functools

import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from tests.composition import cases


def images_of(*kinds):
  """[1, G, 16, 16, 3]: members of one kind differ by a little noise."""
  rng = np.random.default_rng(0)
  base = rng.random((max(kinds) + 1, 16, 16, 3))
  noise = 1e-3 * rng.random((len(kinds), 16, 16, 3))
  return (base[list(kinds)] + noise).astype(np.float32)[None]


def run(scores, mask, images, weights, **options):
  compose = functools.partial(composition.novel_sum, images=images)
  return cases.run(compose, scores, mask, weights, **options)


@pytest.mark.parametrize(("n", "share"), [(1, 1), (2, 1 / 8), (3, 1 / 27)])
def test_what_is_there_n_times_is_worth_its_cube_less(n, share):
  images = images_of(*[0] * n, 1)
  scores, mask, weights = cases.one([1.0] * (n + 1))
  signal, _ = run(scores, mask, images, weights)
  np.testing.assert_allclose(signal[0], [share] * n + [1.0], rtol=1e-6)
  plain, _ = run(scores, mask, images, weights, power=0.0)
  np.testing.assert_array_equal(plain, mask * 1.0)


def test_what_failed_is_no_duplicate_and_others_are_only_added():
  images = images_of(0, 0, 0, 1)
  scores, mask, weights = cases.one((2.0, np.nan, -0.3, -0.6), (1, 1, 1, 1))
  signal, valid = run(
    scores, mask, images, weights | {"b": 3.0}, of="a", least=-0.5
  )
  np.testing.assert_array_equal(valid, [[True, False, True, True]])
  want = [2 / 8 + 3, 0, -0.3 / 8 + 3, 3]
  np.testing.assert_allclose(signal[0], want, rtol=1e-6)


def test_duplicates_are_counted_as_in_float64():
  rng = np.random.default_rng(1)
  features = rng.normal(size=(3, 5, 4))
  features /= np.linalg.norm(features, axis=-1, keepdims=True)
  mask = rng.random((3, 5)) > 0.2
  want = np.ones((3, 5))
  for p, i, j in np.ndindex(3, 5, 5):
    alike = features[p, i] @ features[p, j] >= 0.3
    want[p, i] += i != j and alike and mask[p, j]
  got = composition.duplicates(features.astype(np.float32), mask, 0.3)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"similarity": 1.5}, "similarity=1.5"),
    ({"power": -1.0}, "power=-1.0"),
    ({"of": "c"}, 'there is no reward "c"'),
  ],
)
def test_wrong_options(options, words):
  scores, mask, weights = cases.one((1.0, 2.0))
  with pytest.raises(UserError, match=words):
    run(scores, mask, images_of(0, 1), weights, **options)
