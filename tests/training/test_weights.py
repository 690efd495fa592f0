"""Parameters in one safetensors file: names, types, refusals, atomicity."""

import resource
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxreward.errors import UserError
from jaxreward.training import weights


def assert_equal(a, b):
  def check(x, y):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert x.dtype == y.dtype

  jax.tree.map(check, a, b)


def params_tree():
  rng = np.random.default_rng(0)
  return {
    "block": {
      "kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
      "scale": jnp.asarray(rng.normal(size=(3,)), jnp.bfloat16),
    },
    "table": [jnp.arange(5), jnp.float32(2.5)],
  }


def test_params_round_trip_with_their_names(tmp_path):
  path = tmp_path / "deep" / "policy.safetensors"
  weights.save_params(path, params_tree())
  header = path.read_bytes()
  (length,) = struct.unpack("<Q", header[:8])
  for name in ("block/kernel", "block/scale", "table/0", "table/1"):
    assert f'"{name}"'.encode() in header[8 : 8 + length]
  like = jax.eval_shape(params_tree)
  restored = weights.load_params(path, like)
  assert_equal(restored, params_tree())
  assert isinstance(restored["block"]["kernel"], np.ndarray)
  assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_params_are_stored_in_fewer_bits_and_come_back_float32(
  tmp_path, dtype, bits
):
  weights.save_params(tmp_path / "a.st", params_tree(), dtype=dtype)
  restored = weights.load_params(tmp_path / "a.st", params_tree())
  kernel, exact = restored["block"]["kernel"], params_tree()["block"]["kernel"]
  assert kernel.dtype == jnp.float32
  error = np.abs(np.asarray(kernel) - exact) / np.abs(exact)
  assert 0 < error.max() <= 2.0**-bits
  np.testing.assert_array_equal(restored["table"][0], np.arange(5))


def test_a_value_too_large_for_float16_is_refused(tmp_path):
  with pytest.raises(UserError, match="w has values too large for float16"):
    weights.save_params(
      tmp_path / "a.st", {"w": jnp.float32(1e6)}, dtype="float16"
    )
  assert not (tmp_path / "a.st").exists()


def test_params_land_on_the_sharding_asked_for(tmp_path):
  mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
  tree = {"w": jax.device_put(np.arange(32.0, dtype=np.float32), sharding)}
  weights.save_params(tmp_path / "a.st", tree)
  like = {"w": jax.ShapeDtypeStruct((32,), jnp.float32, sharding=sharding)}
  restored = weights.load_params(tmp_path / "a.st", like)
  assert restored["w"].sharding == sharding
  assert_equal(restored, tree)


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    (lambda t: t["block"].pop("scale"), "holds besides block/scale"),
    (lambda t: t["block"].update(bias=np.zeros(3)), "lacks block/bias"),
    (
      lambda t: t["block"].update(kernel=np.zeros((3, 4), np.float32)),
      r"block/kernel is float32\[4, 3\], expected float32\[3, 4\]",
    ),
    (
      lambda t: t["block"].update(kernel=np.zeros((4, 3), np.int32)),
      r"expected int32\[4, 3\]",
    ),
    (
      lambda t: t.update(blok=t.pop("block")),
      r'lacks blok/kernel, blok/scale \(did you mean "block/kernel"',
    ),
  ],
)
def test_params_that_do_not_fit_are_named(tmp_path, change, expected):
  weights.save_params(tmp_path / "a.st", params_tree())
  like = params_tree()
  change(like)
  with pytest.raises(UserError, match=expected):
    weights.load_params(tmp_path / "a.st", like)


def test_files_that_are_no_params_are_named(tmp_path):
  (tmp_path / "bad.st").write_bytes(b"not tensors")
  for name, expected in (("no.st", "no such file"), ("bad.st", "cannot read")):
    with pytest.raises(UserError, match=expected):
      weights.load_params(tmp_path / name, params_tree())


def test_a_failed_write_keeps_the_older_file(tmp_path):
  path = tmp_path / "a.st"
  weights.save_params(path, params_tree())
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # a full disk
  try:
    with pytest.raises(UserError, match=f"cannot write {path}"):
      weights.save_params(path, {"w": np.ones((512, 512), np.float32)})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert_equal(weights.load_params(path, params_tree()), params_tree())
  assert [p.name for p in tmp_path.iterdir()] == ["a.st"]


def test_a_table_may_have_more_rows_than_the_file(tmp_path):
  """The file's are the first ones; other columns, and fewer rows, are refused."""
  of = lambda *shape: {"table": np.ones(shape, np.float32)}
  weights.save_params(tmp_path / "a.st", of(2, 3))
  drawn = {"table": np.zeros((4, 3), np.float32)}
  restored = weights.load_params(tmp_path / "a.st", drawn, longer=drawn)
  np.testing.assert_array_equal(restored["table"][:, 0], [1, 1, 0, 0])
  for other in (drawn, of(1, 3), of(4, 2)):
    longer = None if other is drawn else other
    with pytest.raises(UserError, match="table is float32"):
      weights.load_params(tmp_path / "a.st", other, longer=longer)
