"""The kernels on eight devices: same values, rows stay where they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxreward.training.mesh import BATCH_AXES, make_mesh
from pallas_kernels import dispatch
from tests.kernels import programs


def batch_sharding(mesh):
  """Rows over all axes that share a batch."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


MESHES = {"8x1x1": (8, 1, 1), "2x2x2": (2, 2, 2)}


def draw(operands, seed=0):
  """Arrays of the given shapes; the masks are mostly true."""
  r = np.random.default_rng(seed)

  def one(x):
    if x.dtype == jnp.bool_:
      return r.random(x.shape) > 0.2
    return jnp.asarray(r.normal(size=x.shape), x.dtype)

  return [one(x) for x in operands]


CASES = {
  "policy": (programs.policy, programs.policy_of(16, 5, 3)),
  "pairs": (programs.pairs, (programs._array(16, 9),) * 2),
  "wins": (programs.wins, (programs._array(16, 9),) * 2),
  "draw": (programs.draw, programs.latents(16, 6, 5)),
  "replay": (programs.replay, programs.latents(16, 6, 5)),
}


def run(program, operands, mesh=None):
  if mesh is None:
    return jax.jit(program)(*operands)
  with jax.set_mesh(mesh):
    placed = [jax.device_put(x, batch_sharding(mesh)) for x in operands]
    return jax.jit(program)(*placed)


def assert_same(found, expected):
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("form", "mesh"),
  [
    ("interpret", "2x2x2"),
    ("interpret_triton", "8x1x1"),
    pytest.param("interpret", "8x1x1", marks=pytest.mark.slow),
    pytest.param("interpret_triton", "2x2x2", marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("case", list(CASES))
def test_values_and_gradients_agree(case, form, mesh):
  make, shapes = CASES[case]
  operands = draw(shapes)
  found = run(make(form), operands, make_mesh(*MESHES[mesh]))
  assert_same(found, run(make("xla"), operands))
  rows = [x for x in jax.tree.leaves(found) if x.ndim and x.shape[0] == 16]
  assert rows
  for x in rows:
    devices = 8 if mesh == "8x1x1" else 4
    assert x.addressable_shards[0].data.shape[0] == 16 // devices


@pytest.mark.turns(3)
@pytest.mark.parametrize("case", ["policy", "wins", "draw"])
def test_rows_need_not_divide_by_devices(case):
  make, shapes = CASES[case]
  operands = [x[:11] for x in draw(shapes)]
  with jax.set_mesh(make_mesh(8)):
    found = jax.jit(make("interpret"))(*operands)
  assert_same(found, run(make("xla"), operands))


def test_no_gathering_and_no_reduction_in_the_step():
  """Samples share nothing: the program of a device talks to no other."""
  mesh = make_mesh(8)
  with jax.set_mesh(mesh):
    operands = [
      jax.device_put(x, batch_sharding(mesh))
      for x in draw(programs.latents(16, 40))
    ]
    for make in (programs.draw, programs.replay):
      gradient = make is programs.replay
      program = make("interpret")
      body = (lambda *a: program(*a)[1]) if gradient else program  # noqa: B023
      text = jax.jit(body).lower(*operands).compile().as_text()
      for word in ("all-gather", "all-to-all", "collective-permute"):
        assert word not in text


def test_other_axes_and_other_names():
  mesh = jax.make_mesh((4, 2), ("x", "data"), axis_types=(AxisType.Auto,) * 2)
  double = lambda x: 2 * x
  with jax.set_mesh(mesh):
    for axes, parts in ((("data",), 2), (("x", "data"), 8), (("none",), 1)):
      shares = []

      def body(x, shares=shares):
        shares.append(x.shape[0])
        return double(x)

      x = jnp.arange(16.0)
      np.testing.assert_array_equal(dispatch.over_rows(body, axes, x), 2 * x)
      assert shares[0] == 16 // parts


def test_inside_a_manual_region_nothing_is_mapped_again():
  mesh = make_mesh(8)
  operands = draw(programs.latents(16, 40))
  with jax.set_mesh(mesh):
    spec = PartitionSpec(("data", "fsdp"))
    mapped = jax.shard_map(
      programs.draw("interpret"), in_specs=spec, out_specs=spec,
      check_vma=False,
    )  # fmt: skip
    found = jax.jit(mapped)(
      *(jax.device_put(x, NamedSharding(mesh, spec)) for x in operands)
    )
  assert_same(found, run(programs.draw("xla"), operands))
