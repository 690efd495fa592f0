"""What every comparison with a PyTorch model does."""

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.torch
import torch
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward.models import convert
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding


def shaken(model, seed=0, scale=0.1):
  """The model with noise on every parameter, so that none is one or zero."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in model.parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.add_(scale * noise)
  return model.eval()


def params_of(model, rules, like, folder):
  """Our parameters from the model's, through a safetensors file."""
  path = folder / "model.safetensors"
  state = {k: v.contiguous() for k, v in model.state_dict().items()}
  safetensors.torch.save_file(state, path)
  return convert.load_params(path, rules, like)


def array(tensor) -> np.ndarray:
  return tensor.detach().float().numpy()


def draw(seed, *shape) -> np.ndarray:
  """Standard normal numbers that bfloat16 holds exactly."""
  x = np.random.default_rng(seed).standard_normal(shape)
  return np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))


def assert_near(got, want, tolerance):
  """No element off by more than `tolerance` of the largest wanted one."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape
  size = np.abs(want).max()
  assert size > 0 and np.isfinite(got).all()
  gap = np.abs(got - want).max() / size
  assert gap <= tolerance, f"off by {gap:.2e} of {size:.2e}"


def assert_same_gradients(model, rules, grads, tolerance=1e-3):
  """The gradients that `backward` left agree with ours, one by one.

  A gradient that vanishes by symmetry (a bias before a softmax over keys, say)
  is held to the size of the largest one.
  """
  ours = convert.to_public(grads, rules)
  theirs = {n: p.grad for n, p in model.named_parameters()}
  assert all(g is not None for g in theirs.values())
  whole = max(float(g.abs().max()) for g in theirs.values())
  for name, grad in theirs.items():
    size = max(float(grad.abs().max()), 1e-3 * whole)
    gap = np.abs(ours[name] - array(grad)).max() / size
    assert gap <= tolerance, f"{name} is off by {gap:.2e}"


def assert_is_diffusers(policy, model, run_theirs, args, folder):
  """Velocities, gradients and the weights read and written are the peer's.

  Args:
    policy: ours, over (x, t, prompts).
    model: theirs, with its own weights.
    run_theirs: (model, x, t, prompts) -> velocity.
    args: (x, t, prompts).
    folder: for a file of weights.
  """
  like = jax.eval_shape(policy.init, jax.random.key(0))
  params = params_of(model, policy.layout, like, folder)
  x, t, prompts = args
  weight = draw(7, *x.shape)
  want = run_theirs(model, *args)
  (want * torch.tensor(weight)).sum().backward()

  def scalar(params):
    v = policy.velocity(params, x, t, policy.encode(params, prompts))
    return (v * weight).sum(), v

  (_, got), grads = jax.jit(jax.value_and_grad(scalar, has_aux=True))(params)
  assert_near(got, array(want), 1e-4)
  assert_same_gradients(model, policy.layout, grads)
  assert_round_trip(model, policy.layout, params)


def assert_round_trip(model, rules, params):
  """Back in the public layout, every tensor has its bits."""
  public = convert.to_public(params, rules)
  state = model.state_dict()
  assert set(public) == set(state)
  for name, tensor in state.items():
    assert public[name].tobytes() == tensor.numpy().tobytes(), name


def assert_loads_in_diffusers(kind, model, params, rules, config, folder):
  """A folder that we write is one that `from_pretrained` reads."""
  convert.save_params(folder, params, rules, config=config, shard_bytes=200_000)
  again = kind.from_pretrained(folder)
  state = model.state_dict()
  for name, tensor in again.state_dict().items():
    assert torch.equal(tensor, state[name]), name


def count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def assert_rules_cover(policy, full_sizes=((1, 8, 1), (2, 2, 2), (1, 1, 8))):
  """One rule per parameter, and each divides on every mesh."""
  like = jax.eval_shape(policy.init, jax.random.key(0))
  is_spec = lambda s: isinstance(s, PartitionSpec)
  for sizes in full_sizes:
    mesh = meshes.make_mesh(*sizes)
    specs = sharding.param_specs(like, policy.sharding_rules, mesh)
    for leaf, spec in zip(
      jax.tree.leaves(like), jax.tree.leaves(specs, is_leaf=is_spec),
      strict=True,
    ):  # fmt: skip
      shard = NamedSharding(mesh, spec).shard_shape(leaf.shape)
      # Nothing large is held whole by every device.
      if leaf.size > 10**7:
        assert np.prod(shard) < leaf.size
  return like


def assert_sharded_equals_one(policy, params, x, t, prompts, tolerance=1e-5):
  """Velocities on a mesh of eight devices are those of one."""

  def run(params, x, t, prompts):
    return policy.velocity(params, x, t, policy.encode(params, prompts))

  mesh = meshes.make_mesh(2, 2, 2)
  places = sharding.state_shardings(
    {"params": params}, policy.sharding_rules, mesh
  )["params"]
  rows = NamedSharding(mesh, PartitionSpec(meshes.BATCH_AXES))
  want = jax.jit(run)(params, x, t, prompts)
  with jax.set_mesh(mesh):
    got = jax.jit(run)(
      jax.device_put(params, places), *jax.device_put((x, t, prompts), rows)
    )
  assert_near(got, want, tolerance)
