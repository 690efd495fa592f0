"""Keys are addresses: what a draw is for decides it, and nothing else."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxreward import rng
from jaxreward.training import mesh as meshes

SHAPE = (3, 2)


def bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def keys_of(prompt_ids, members, step=0, seed=0):
  key = rng.stream_key(seed, "rollout", step)
  return rng.sample_keys(
    key, np.asarray(prompt_ids, np.uint32), np.asarray(members, np.int32)
  )


def test_distinct_addresses_have_distinct_keys():
  seen = set()
  grid = itertools.product(range(3), ("rollout", "eval", "data"), range(4))
  for seed, stream, step in grid:
    key = rng.stream_key(seed, stream, step)
    ids, members = np.divmod(np.arange(60), 10)
    keys = rng.sample_keys(key, ids.astype(np.uint32), members.astype(np.int32))
    for number in (0, 1, 0xFFFF):
      folded = jax.random.key_data(rng.fold_each(keys, number))
      seen.update(map(tuple, np.asarray(folded).tolist()))
  assert len(seen) == 3 * 3 * 4 * 60 * 3


def test_prompt_and_member_do_not_trade_places():
  assert bits(keys_of([3], [5])) != bits(keys_of([5], [3]))


def test_keys_are_threefry_whatever_the_default():
  assert jax.random.key_impl(rng.stream_key(0, "a")) == "threefry2x32"
  before = bits(rng.stream_key(7, "a", 2))
  with jax.default_prng_impl("rbg"):
    key = rng.stream_key(7, "a", 2)
    assert jax.random.key_impl(key) == "threefry2x32"
    assert bits(key) == before


def test_a_traced_step_gives_the_same_key():
  traced = jax.jit(lambda i: jax.random.key_data(rng.stream_key(3, "x", i)))
  for step in (0, 1, 2**31 - 1):
    np.testing.assert_array_equal(
      traced(jnp.int32(step)),
      jax.random.key_data(rng.stream_key(3, "x", step)),
    )


def test_the_address_scheme_is_fixed():
  """Changing it changes every published run: CRC-32 of the stream's name."""
  key = jax.random.key(5, impl="threefry2x32")
  for number in (0x74A0C58F, 1, 4_000_000_000, 2):
    key = jax.random.fold_in(key, np.uint32(number))
  actual = keys_of([4_000_000_000], [2], step=1, seed=5)
  assert bits(actual) == bits(key)


def test_rows_equal_single_draws_bit_for_bit():
  ids = np.array([9, 4_294_967_295, 0, 77], np.uint32)
  members = np.array([0, 3, 2, 1], np.int32)
  together = rng.normal_each(rng.fold_each(keys_of(ids, members), 6), SHAPE)
  for row in range(4):
    key = rng.stream_key(0, "rollout", 0)
    for number in (ids[row], np.uint32(members[row]), np.uint32(6)):
      key = jax.random.fold_in(key, number)
    alone = jax.random.normal(key, SHAPE, jnp.float32)
    np.testing.assert_array_equal(together[row], alone)


def test_order_moves_rows_and_nothing_else():
  ids = np.arange(12, dtype=np.uint32) // 3
  members = np.arange(12, dtype=np.int32) % 3
  draws = np.asarray(rng.normal_each(keys_of(ids, members), SHAPE))
  order = np.random.default_rng(0).permutation(12)
  shuffled = rng.normal_each(keys_of(ids[order], members[order]), SHAPE)
  np.testing.assert_array_equal(shuffled, draws[order])


@pytest.mark.turns(3)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_noise_is_bit_equal_on_any_number_of_devices(count):
  ids = np.arange(16, dtype=np.uint32) // 4
  members = np.arange(16, dtype=np.int32) % 4
  expected = rng.normal_each(keys_of(ids, members), SHAPE)
  mesh = meshes.make_mesh(devices=jax.devices()[:count])
  place = NamedSharding(mesh, P(meshes.BATCH_AXES))

  @jax.jit
  def draw(ids, members):
    key = rng.stream_key(0, "rollout", 0)
    return rng.normal_each(rng.sample_keys(key, ids, members), SHAPE)

  sharded = draw(jax.device_put(ids, place), jax.device_put(members, place))
  assert len(sharded.sharding.device_set) == count
  np.testing.assert_array_equal(sharded, expected)


def test_noise_is_standard_normal_and_uncorrelated():
  """4,096 rows by 36 elements: moments, law, and every pair of elements."""
  ids, members = np.divmod(np.arange(4096), 64)
  draws = np.asarray(
    jax.jit(lambda k: rng.normal_each(k, (36,)))(keys_of(ids, members)),
    np.float64,
  )
  n = draws.size
  assert abs(draws.mean()) < 4.5 / np.sqrt(n)
  assert abs(draws.var() - 1) < 4.5 * np.sqrt(2 / n)
  assert scipy.stats.kstest(draws.ravel()[:20_000], "norm").pvalue > 1e-3
  elements = np.corrcoef(draws.T)[np.triu_indices(36, 1)]
  assert np.abs(elements).max() < 5.5 / np.sqrt(4096)
  # Neighbouring members, and the same member of neighbouring prompts.
  for lag in (1, 64):
    product = (draws[:-lag] * draws[lag:]).mean()
    assert abs(product) < 4.5 / np.sqrt(draws[lag:].size)
  assert len(np.unique(draws)) > 0.99 * n  # float32 draws repeat, rows do not
  assert len(np.unique(draws, axis=0)) == 4096


def test_normals_are_those_of_the_key_whatever_the_shape():
  keys = keys_of([3, 5], [0, 1])
  shape = (4, 4, 3)
  expected = [jax.random.normal(key, shape) for key in keys]
  np.testing.assert_array_equal(
    jax.jit(lambda k: rng.normal_each(k, shape))(keys), np.stack(expected)
  )
