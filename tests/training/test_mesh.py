"""Meshes on eight virtual devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxreward.errors import UserError
from jaxreward.training import mesh as meshes

ROWS = PartitionSpec(meshes.BATCH_AXES)


@pytest.fixture(scope="module")
def devices():
  found = jax.devices()
  assert len(found) >= 8, "tests run on eight virtual devices"
  return found[:8]


@pytest.mark.parametrize(
  ("sizes", "shape"),
  [
    ((), (8, 1, 1)),
    ((-1, 4, 1), (2, 4, 1)),
    ((2, -1, 2), (2, 2, 2)),
    ((1, 1, -1), (1, 1, 8)),
    ((4, 2, 1), (4, 2, 1)),
  ],
)
def test_shapes(devices, sizes, shape):
  mesh = meshes.make_mesh(*sizes, devices=devices)
  assert mesh.axis_names == ("data", "fsdp", "tensor")
  assert tuple(mesh.shape.values()) == shape
  assert mesh.axis_types == (AxisType.Auto,) * 3


def test_all_devices_by_default():
  assert meshes.make_mesh().size == len(jax.devices())
  assert meshes.make_mesh(devices=jax.devices()[:3]).shape["data"] == 3


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ((-1, 3, 1), "a multiple of 3 devices, but there are 8"),
    ((2, 2, 1), "needs 4 devices, but there are 8"),
    ((16, 1, 1), "needs 16 devices, but there are 8"),
    ((-1, -1, 1), "at most one may be -1"),
    ((8, 0, 1), "sizes are positive"),
    ((-2, 1, 1), "sizes are positive"),
  ],
)
def test_sizes_that_do_not_fit(devices, sizes, message):
  with pytest.raises(UserError, match=message) as error:
    meshes.make_mesh(*sizes, devices=devices)
  assert "data=" in str(error.value)
  assert "\n" not in str(error.value)


def test_batches_split_over_data_and_fsdp(devices):
  mesh = meshes.make_mesh(2, 2, 2, devices=devices)
  sharding = NamedSharding(mesh, ROWS)
  x = jax.device_put(np.arange(24.0).reshape(8, 3), sharding)
  assert {s.data.shape for s in x.addressable_shards} == {(2, 3)}
  y = jax.device_put(np.arange(5.0), meshes.replicated(mesh))
  assert {s.data.shape for s in y.addressable_shards} == {(5,)}


def test_group_axis_stays_whole_and_sums_agree(devices):
  x = np.random.default_rng(0).normal(0, 1, (8, 6)).astype(np.float32)
  want = x - x.mean(1, keepdims=True)
  for sizes in ((8, 1, 1), (2, 4, 1), (1, 2, 4)):
    mesh = meshes.make_mesh(*sizes, devices=devices)
    placed = jax.device_put(x, NamedSharding(mesh, ROWS))
    got = jax.jit(lambda v: v - jnp.mean(v, axis=1, keepdims=True))(placed)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_round_up(devices):
  mesh = meshes.make_mesh(2, 2, 2, devices=devices)
  for n, want in {0: 4, 1: 4, 4: 4, 5: 8, 480: 480, 481: 484}.items():
    assert meshes.round_up_to_devices(n, mesh) == want
