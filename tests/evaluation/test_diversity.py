"""Diversity against a pair loop in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.evaluation import diversity


def pool_reference(image, cells):
  """Area averages by counting: every pixel cut into `cells` slivers a side."""
  fine = image.astype(np.float64).repeat(cells, 0).repeat(cells, 1)
  height, width, channels = fine.shape
  blocks = fine.reshape(cells, height // cells, cells, width // cells, channels)
  return blocks.mean(axis=(1, 3))


def reference(images, mask, cells):
  result = []
  for group, keep in zip(images, mask, strict=True):
    pooled = [
      pool_reference(x, cells) for x, k in zip(group, keep, strict=True) if k
    ]
    pairs = itertools.combinations(pooled, 2)
    distances = [np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs]
    result.append(np.mean(distances) if distances else 0.0)
  return np.array(result)


@pytest.mark.parametrize("size,cells", [((12, 12), 4), ((10, 7), 3)])
def test_matches_pair_loop(size, cells):
  rng = np.random.default_rng(0)
  images = rng.random((3, 5, *size, 3)).astype(np.float32)
  mask = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0]], bool)
  images[~mask] = np.nan
  got = jax.jit(diversity.group_diversity, static_argnames="cells")(
    images, mask, cells=cells
  )
  want = reference(np.nan_to_num(images), mask, cells)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)
  assert got[2] == 0
  np.testing.assert_array_equal(diversity.pairs_exist(mask), [1, 1, 0])


def test_pooling_rows_are_averages():
  for size, cells in [(36, 9), (36, 7), (5, 8)]:
    weights = diversity.pooling_matrix(size, cells)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=0), cells / size, rtol=1e-6)


def test_order_of_members_does_not_matter():
  rng = np.random.default_rng(1)
  images = rng.random((2, 6, 12, 12, 3)).astype(np.float32)
  mask = np.ones((2, 6), bool)
  shuffled = images[:, rng.permutation(6)]
  np.testing.assert_allclose(
    diversity.group_diversity(images, mask),
    diversity.group_diversity(shuffled, mask),
    rtol=1e-5,
  )


def test_limits():
  mask = np.ones((1, 4), bool)
  same = np.broadcast_to(np.float32(0.7), (1, 4, 8, 8, 3))
  assert diversity.group_diversity(same, mask)[0] < 1e-6
  two = np.zeros((1, 2, 8, 8, 3), np.float32)
  two[0, 1] = 1.0
  got = diversity.group_diversity(two, np.ones((1, 2), bool))
  np.testing.assert_allclose(got, [1.0], rtol=1e-6)


def test_padding_a_group_changes_nothing():
  rng = np.random.default_rng(2)
  images = rng.random((1, 3, 12, 12, 3)).astype(np.float32)
  padded = np.concatenate([images, np.full_like(images, 9.0)], axis=1)
  mask = np.array([[1, 1, 1, 0, 0, 0]], bool)
  np.testing.assert_allclose(
    diversity.group_diversity(images, mask[:, :3]),
    diversity.group_diversity(padded, mask),
    rtol=1e-6,
  )


def test_layout_counts_for_more_than_grain():
  rng = np.random.default_rng(3)
  grain = 0.5 + 0.2 * rng.standard_normal((1, 8, 36, 36, 3))
  layout = np.full((1, 8, 36, 36, 3), 0.5)
  for i in range(8):
    y, x = divmod(i, 3)
    layout[0, i, 12 * y : 12 * y + 12, 12 * x : 12 * x + 12] = 1.0
  mask = np.ones((1, 8), bool)
  pixels = lambda z: np.sqrt(np.mean((z[0, 0] - z[0, 1]) ** 2))
  ratio = lambda d: float(d(layout) / d(grain))
  measured = lambda z: diversity.group_diversity(jnp.asarray(z), mask)[0]
  assert ratio(measured) > 3 * ratio(pixels)


def test_no_pairwise_tensor_is_materialised():
  members, size = 64, 32
  images = jax.ShapeDtypeStruct((1, members, size, size, 3), jnp.float32)
  mask = jax.ShapeDtypeStruct((1, members), bool)
  compiled = jax.jit(diversity.group_diversity).lower(images, mask).compile()
  pairwise = members * members * 9 * 9 * 3 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < pairwise
