"""Rows of activations follow the batch; parameters come to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward.compilation import flops, hlo
from jaxreward.models import sequence
from jaxreward.models.policies import (
  flux,
  flux2,
  qwen_image,
  sd3,
  wan,
  z_image,
)
from jaxreward.training import mesh as mesh_lib
from jaxreward.training import sharding

B, SIDE, WORDS = 8, 16, 8
MODELS = {
  "sd3": sd3, "flux": flux, "qwen_image": qwen_image, "wan": wan,
  "z_image": z_image, "flux2": flux2,
}  # fmt: skip


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make_mesh(2, 4, 1, devices=jax.devices()[:8])


def make(name):
  """A small policy whose latents are 16 on a side."""
  if name == "wan":
    sides = dict(frames=2, latent_height=SIDE, latent_width=SIDE)
  else:
    sides = dict(latent_side=SIDE)
  return MODELS[name].make_policy(
    size="tiny", words=WORDS, remat="none", dtype="float32", **sides
  )


def shapes(policy, mesh):
  """Parameters cut by the policy's rules, and rows that lie anywhere."""
  params = jax.eval_shape(policy.init, jax.random.key(0))
  specs = sharding.param_specs(params, policy.sharding_rules, mesh)
  place = lambda x, spec: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
  )
  params = jax.tree.map(place, params, specs)
  row = lambda s: jax.ShapeDtypeStruct(
    (B, *s.shape[1:]), s.dtype, sharding=mesh_lib.replicated(mesh)
  )
  latents = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  t = jax.ShapeDtypeStruct((1,), jnp.float32)
  return params, row(latents), row(t), jax.tree.map(row, policy.prompts)


def loss_of(policy):
  def loss(params, x, t, prompts):
    cond = policy.encode(params, prompts)
    return jnp.square(policy.velocity(params, x, t, cond)).mean()

  return loss


def compiled(policy, mesh):
  """Flops of a pass forward, of one device and of the whole program."""
  given = shapes(policy, mesh)
  with jax.set_mesh(mesh):
    traced = jax.jit(loss_of(policy)).trace(*given)
    text = traced.lower().compile().as_text()
  return hlo.read(text, dict(mesh.shape)).flops, flops.count(traced.jaxpr)


def drawn(like, rng):
  if like.dtype == bool:
    return jnp.ones(like.shape, bool)
  return jnp.asarray(0.5 * rng.standard_normal(like.shape), like.dtype)


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", MODELS)
def test_each_device_computes_its_rows_and_nothing_else(name, mesh):
  mine, whole = compiled(make(name), mesh)
  assert mine == pytest.approx(whole / 8, rel=0.1)


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "name",
  [
    "sd3",
    *(pytest.param(x, marks=pytest.mark.slow) for x in MODELS if x != "sd3"),
  ],
)
def test_three_axes_give_the_numbers_of_one_device(name):
  policy = make(name)
  mesh = mesh_lib.make_mesh(2, 2, 2, devices=jax.devices()[:8])
  given = shapes(policy, mesh)
  leaves, tree = jax.tree.flatten(given)
  rng = np.random.default_rng(0)
  values = tree.unflatten([drawn(leaf, rng) for leaf in leaves])
  run = jax.value_and_grad(loss_of(policy))
  want = jax.jit(run)(*values)
  places = jax.tree.map(lambda x: x.sharding, given)
  with jax.set_mesh(mesh):
    got = jax.jit(run)(*jax.device_put(values, places))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  for x, y in zip(*map(jax.tree.leaves, (got[1], want[1])), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4 * float(jnp.abs(y).max() + 1e-6))


@pytest.mark.job
@pytest.mark.turns(3)
def test_left_to_itself_the_compiler_does_more(mesh, monkeypatch):
  monkeypatch.setattr(sequence, "_place", lambda x, others: x)
  mine, whole = compiled(make("sd3"), mesh)
  assert mine > 1.5 * whole / 8


def test_rows_that_do_not_divide_stay(mesh):
  odd = jnp.ones((6, 2))
  even = jnp.ones((16, 2))
  text = lambda x: str(jax.make_jaxpr(sequence.rows)(x))
  assert "sharding_constraint" not in text(even)
  with jax.set_mesh(mesh):
    assert "sharding_constraint" in text(even)
    assert "sharding_constraint" not in text(odd)
    found = jax.jit(sequence.rows)(even)
  np.testing.assert_array_equal(found, even)
  assert found.sharding.is_equivalent_to(
    NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES)), 2
  )
