"""Rules to shardings: exactly one match, followers, bytes, real placement."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxreward.errors import UserError
from jaxreward.training import ema, optimizer, sharding
from jaxreward.training import mesh as meshes

RULES = (
  (r"up/kernel$", (None, "fsdp", "tensor")),
  (r"down/kernel$", (None, "tensor", "fsdp")),
  (r"bias$", ()),
  (r"embedding$", (None, ("fsdp", "tensor"))),
)


@flax.struct.dataclass
class State:
  step: jax.Array
  params: dict
  average: dict
  opt_state: tuple


def init_params():
  draw = lambda i, *s: jax.random.normal(jax.random.key(i), s)
  return {
    "blocks": {
      "up": {"kernel": draw(0, 3, 8, 16), "bias": draw(1, 3, 16)},
      "down": {"kernel": draw(2, 3, 16, 8), "bias": draw(3, 3, 8)},
    },
    "embedding": draw(4, 5, 8),
  }


def make_state(name="adamw"):
  transform, _ = optimizer.make_optimizer(name=name, learning_rate=0.1)

  def init():
    params = init_params()
    return State(
      jnp.int32(0), params, ema.init_ema(params), transform.init(params)
    )

  return init, transform


@pytest.fixture(scope="module")
def mesh():
  return meshes.make_mesh(2, 2, 2, devices=jax.devices()[:8])


def test_specs_follow_the_table(mesh):
  specs = sharding.param_specs(init_params(), RULES, mesh)
  assert specs == {
    "blocks": {
      "up": {"kernel": P(None, "fsdp", "tensor"), "bias": P()},
      "down": {"kernel": P(None, "tensor", "fsdp"), "bias": P()},
    },
    "embedding": P(None, ("fsdp", "tensor")),
  }


def test_unmatched_and_doubly_matched_paths_are_listed(mesh):
  with pytest.raises(UserError, match="no sharding rule matches embedding"):
    sharding.param_specs(init_params(), RULES[:3], mesh)
  twice = (*RULES, (r"blocks/up", ()))
  with pytest.raises(UserError, match="matched by 2 rules") as error:
    sharding.param_specs(init_params(), twice, mesh)
  assert "blocks/up/kernel" in str(error.value)
  assert "blocks/up/bias" in str(error.value)
  assert "blocks/down" not in str(error.value)


@pytest.mark.parametrize(
  ("axes", "error", "message"),
  [
    (
      (None, None, None),
      ValueError,
      r"3 dimensions, but its shape is \(5, 8\)",
    ),
    (("expert",), ValueError, "names the axis expert"),
    (("fsdp",), UserError, r"5 cannot be split over mesh.fsdp = 2"),
    (((("data", "tensor")),), UserError, "mesh.data x mesh.tensor = 4"),
  ],
)
def test_impossible_rules_say_why(mesh, axes, error, message):
  rules = (*RULES[:3], (r"embedding$", axes))
  with pytest.raises(error, match=message) as caught:
    sharding.param_specs(init_params(), rules, mesh)
  assert "embedding" in str(caught.value)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_optimizer_and_average_follow_the_parameters(mesh, name):
  init, _ = make_state(name)
  abstract = jax.eval_shape(init)
  places = sharding.state_shardings(abstract, RULES, mesh)
  assert jax.tree.structure(places) == jax.tree.structure(abstract)
  specs = jax.tree.map(lambda s: s.spec, places)
  by_path = {
    jax.tree_util.keystr(path, simple=True, separator="/"): (leaf, spec)
    for (path, leaf), spec in zip(
      jax.tree_util.tree_flatten_with_path(abstract)[0],
      jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P)),
      strict=True,
    )
  }
  follows = 0
  for path, (leaf, spec) in by_path.items():
    if path.endswith("up/kernel"):
      assert spec == P(None, "fsdp", "tensor"), path
      follows += 1
    elif path.endswith("embedding"):
      assert spec == P(None, ("fsdp", "tensor")), path
    elif leaf.ndim == 0 or path.endswith(("bias", "ns_coeffs")):
      assert spec == P(), path
  # Parameters, their average and one or two moments.
  assert follows == {"adamw": 4, "muon": 3, "sgd": 3}[name]
  assert by_path["step"][1] == P()


def test_longest_suffix_wins(mesh):
  params = {
    "kernel": jnp.zeros((8, 8)),
    "inner": {"kernel": jnp.zeros((8, 8))},
  }
  rules = (("^kernel$", ("fsdp",)), ("inner/kernel", (None, "tensor")))
  state = {"params": params, "mu": {"x": params}}
  specs = jax.tree.map(
    lambda s: s.spec, sharding.state_shardings(state, rules, mesh)
  )
  for tree in (specs["params"], specs["mu"]["x"]):
    assert tree["kernel"] == P("fsdp")
    assert tree["inner"]["kernel"] == P(None, "tensor")


def test_other_shapes_under_a_parameter_path_are_replicated(mesh):
  params = {"kernel": jnp.zeros((8, 8))}
  state = {"params": params, "factor": {"kernel": jnp.zeros((8,))}}
  places = sharding.state_shardings(state, (("kernel", ("fsdp",)),), mesh)
  assert places["factor"]["kernel"].spec == P()


def test_params_can_be_given(mesh):
  state = {"adapter": {"a": jnp.zeros((8, 2))}, "step": jnp.int32(0)}
  places = sharding.state_shardings(
    state, (("a$", ("fsdp",)),), mesh, params=state["adapter"]
  )
  assert places["adapter"]["a"].spec == P("fsdp")
  assert places["step"].spec == P()


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_step_keeps_its_shardings_and_agrees_with_one_device(mesh):
  init, transform = make_state("muon")
  x = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)

  def loss(params, x):
    def block(x, layer):
      h = jnp.tanh(x @ layer["up"]["kernel"] + layer["up"]["bias"])
      return x + h @ layer["down"]["kernel"] + layer["down"]["bias"], None

    out, _ = jax.lax.scan(block, x, params["blocks"])
    return jnp.mean(jnp.square(out @ params["embedding"].T))

  traces = []

  def step(state, x):
    traces.append(1)
    value, grads = jax.value_and_grad(loss)(state.params, x)
    params, opt_state, _ = optimizer.apply_if_finite(
      transform, grads, state.opt_state, state.params, loss=value
    )
    average = ema.update_ema(state.average, params, 0.9)
    return State(state.step + 1, params, average, opt_state), value

  def program(mesh):
    places = sharding.state_shardings(jax.eval_shape(init), RULES, mesh)
    start = jax.jit(init, out_shardings=places)
    update = jax.jit(
      step, donate_argnums=0, out_shardings=(places, meshes.replicated(mesh))
    )
    batch = jax.device_put(
      x, jax.sharding.NamedSharding(mesh, P(meshes.BATCH_AXES))
    )

    def run():
      state, before = start(), len(traces)
      for _ in range(3):
        state, value = update(state, batch)
      assert len(traces) <= before + 1
      same = jax.tree.map(
        lambda leaf, place: leaf.sharding.is_equivalent_to(place, leaf.ndim),
        state,
        places,
      )
      assert all(jax.tree.leaves(same))
      return state, value

    return run

  run = program(mesh)
  state, value = run()
  shard = state.params["blocks"]["up"]["kernel"].addressable_shards[0]
  assert shard.data.shape == (3, 4, 8)
  alone, alone_value = program(meshes.make_mesh(devices=jax.devices()[:1]))()
  np.testing.assert_allclose(value, alone_value, rtol=1e-4)
  again, again_value = run()
  assert value == again_value
  jax.tree.map(np.testing.assert_array_equal, state, again)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3),
    state.params,
    alone.params,
  )


def test_describe_counts_bytes_per_device(mesh):
  init, _ = make_state()
  abstract = jax.eval_shape(init)
  places = sharding.state_shardings(abstract, RULES, mesh)
  placed = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract, places,
  )  # fmt: skip
  parts = {
    "parameters": placed.params,
    "optimizer": placed.opt_state,
    "average": placed.average,
    "reference": None,
  }
  text = sharding.describe(parts, limit=2)
  # Kernels over 4 devices, 3 * 8 * 16 floats each; biases and scalars whole.
  kernels = 2 * 3 * 8 * 16 * 4 // 4
  one = kernels + (3 * 16 + 3 * 8) * 4 + 5 * 8 * 4 // 4
  scalars = sum(
    leaf.dtype.itemsize
    for leaf in jax.tree.leaves(abstract.opt_state)
    if not leaf.ndim
  )
  total = 4 * one + scalars
  kib = lambda count: f"{count / 1024:.1f} KiB"
  lines = text.splitlines()
  assert len(lines) == 4
  assert "up/kernel" in lines[0] or "down/kernel" in lines[0]
  assert "- fsdp tensor" in lines[0] or "- tensor fsdp" in lines[0]
  assert "float32[3,16,8]" in lines[0] or "float32[3,8,16]" in lines[0]
  assert lines[2].startswith("and ")
  assert lines[3] == (
    f"total per device: {kib(total)} (parameters {kib(one)},"
    f" optimizer {kib(2 * one + scalars)}, average {kib(one)})"
  )
  real = jax.jit(init, out_shardings=places)()
  held = sum(
    leaf.addressable_shards[0].data.nbytes
    for leaf in jax.tree.leaves((real.params, real.opt_state, real.average))
  )
  assert held == total == sharding.device_bytes(parts)
