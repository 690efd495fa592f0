"""Rollouts: geometry, addresses of noise, and the record they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxreward import rng
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.training import mesh as meshes
from jaxreward.types import Policy

pytestmark = [pytest.mark.job, pytest.mark.optimized]

SHAPE = (4, 4, 3)
GEOMETRIES = [
  # prompts, group, microbatch, devices
  (1, 1, 1, 1),
  (1, 1, 256, 8),
  (3, 5, 4, 1),
  (3, 5, 4, 2),
  (5, 3, 7, 4),
  (2, 9, 16, 8),
  (7, 11, 10, 3),
  (16, 16, 256, 8),
]


def toy() -> Policy:
  """Mixes the pixels of a sample and its prompt; cheap, not linear."""

  def init(key):
    return {
      "mix": 0.3 * jax.random.normal(key, (48, 48)),
      "embed": jax.random.normal(jax.random.fold_in(key, 1), (32, 48)),
    }

  def velocity(params, x, t, cond):
    flat = x.reshape(len(x), -1)
    h = jnp.tanh(flat @ params["mix"] + cond["prompt"] + t[:, None])
    return (flat - h).reshape(x.shape)

  return Policy(
    init=init,
    encode=lambda p, tokens: {"prompt": p["embed"][tokens].sum(1)},
    velocity=velocity,
    to_pixels=lambda x, decoder=None: x,
    latent_shape=SHAPE,
  )


POLICY = toy()
PARAMS = POLICY.init(jax.random.key(0))


def prompts_of(count):
  tokens = np.random.default_rng(0).integers(1, 32, (count, 5)).astype(np.int32)
  ids = (np.arange(count, dtype=np.uint32) * 2_654_435_761) & 0xFFFFFFFF
  return tokens, ids.astype(np.uint32)


def table_of(name="flow_sde", steps=4, noisy=None):
  return steppers.REGISTRY[name](schedule.timesteps(steps, 3.0), noisy)


def run(layout, tokens, ids, table=None, step=0, place=None, **kwargs):
  table = table_of() if table is None else table

  @jax.jit
  def sample(params, tokens, ids, layout):
    key = rng.stream_key(0, "rollout", step)
    options = dict(is_recorded=True) | kwargs
    drawer = Sampler(POLICY, table, layout, **options)
    return drawer.sample(params, key, tokens, ids)

  if place is not None:
    layout = jax.device_put(layout, place)
  return jax.device_get(sample(PARAMS, tokens, ids, layout))


def grouped(trajectory, prompts, group):
  """[T + 1, P, G, ...] latents and [T, P, G] log-probabilities."""
  cut = jax.vmap(lambda x: rollout.to_groups(x, prompts, group))
  return np.asarray(cut(trajectory.latents)), np.asarray(
    cut(trajectory.log_probs)
  )


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(("prompts", "group", "rows", "devices"), GEOMETRIES)
def test_layout_covers_every_sample_once(prompts, group, rows, devices, parts):
  layout = rollout.make_layout(prompts, group, rows, devices, parts)
  count = len(layout.mask)
  assert count % layout.chunks == 0 and layout.chunks % parts == 0
  per_chunk = count // layout.chunks
  assert per_chunk % devices == 0
  assert per_chunk < rows + devices
  if parts == 1:
    assert count - prompts * group < per_chunk  # no chunk is all padding
  pairs = [
    (int(p), int(m))
    for p, m, real in zip(
      layout.prompt_index, layout.member, layout.mask, strict=True
    )
    if real
  ]
  assert len(pairs) == prompts * group
  assert set(pairs) == {(p, m) for p in range(prompts) for m in range(group)}
  assert layout.prompt_index.max() < prompts and layout.member.max() < group


@pytest.mark.parametrize(("prompts", "group", "rows", "devices"), GEOMETRIES)
def test_chunks_and_groups_come_back(prompts, group, rows, devices):
  layout = rollout.make_layout(prompts, group, rows, devices)
  x = np.arange(len(layout.mask) * 2).reshape(-1, 2)
  chunked = rollout.to_chunks(x, layout.chunks)
  assert chunked.shape[0] == layout.chunks
  np.testing.assert_array_equal(rollout.from_chunks(chunked), x)
  values = np.arange(prompts * group).reshape(prompts, group)
  flat = rollout.from_groups(values, layout)
  assert len(flat) == len(layout.mask)
  np.testing.assert_array_equal(rollout.to_groups(flat, prompts, group), values)


def test_a_chunk_of_a_sharded_axis_takes_equal_rows_of_every_device():
  """Row b = m C + c: chunk c is one row of each run of C rows."""
  chunked = rollout.to_chunks(np.arange(24), 3)
  np.testing.assert_array_equal(chunked[1], np.arange(24)[1::3])


@pytest.mark.turns(3)
@pytest.mark.parametrize("rows", [1, 4, 7, 15, 64])
def test_samples_do_not_depend_on_the_microbatch(rows):
  tokens, ids = prompts_of(3)
  whole = run(rollout.make_layout(3, 5, 15), tokens, ids)
  cut = run(rollout.make_layout(3, 5, rows), tokens, ids)
  expected, actual = grouped(whole, 3, 5), grouped(cut, 3, 5)
  np.testing.assert_array_equal(actual[0][0], expected[0][0])  # the noise
  np.testing.assert_allclose(actual[0], expected[0], atol=2e-5)
  np.testing.assert_allclose(actual[1], expected[1], atol=2e-5)


def test_samples_do_not_depend_on_the_order_of_prompts():
  tokens, ids = prompts_of(5)
  order = np.array([3, 0, 4, 2, 1])
  layout = rollout.make_layout(5, 3, 6)
  straight = grouped(run(layout, tokens, ids), 5, 3)
  shuffled = grouped(run(layout, tokens[order], ids[order]), 5, 3)
  np.testing.assert_array_equal(shuffled[0][0], straight[0][0][order])
  np.testing.assert_allclose(shuffled[0], straight[0][:, order], atol=2e-5)
  np.testing.assert_allclose(shuffled[1], straight[1][:, order], atol=2e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_samples_do_not_depend_on_the_devices(count):
  tokens, ids = prompts_of(4)
  expected = grouped(run(rollout.make_layout(4, 6, 8), tokens, ids), 4, 6)
  mesh = meshes.make_mesh(devices=jax.devices()[:count])
  layout = rollout.make_layout(4, 6, 8, count)
  place = NamedSharding(mesh, P(meshes.BATCH_AXES))
  with jax.set_mesh(mesh):
    trajectory = run(layout, tokens, ids, place=place)
  actual = grouped(trajectory, 4, 6)
  np.testing.assert_array_equal(actual[0][0], expected[0][0])
  np.testing.assert_allclose(actual[0], expected[0], atol=2e-5)
  np.testing.assert_allclose(actual[1], expected[1], atol=2e-5)


def test_a_rerun_is_bit_equal_and_another_iteration_is_not():
  tokens, ids = prompts_of(3)
  layout = rollout.make_layout(3, 4, 6)
  first, again = (run(layout, tokens, ids) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  later = run(layout, tokens, ids, step=1)
  assert (later.latents[0] != first.latents[0]).mean() > 0.99


def test_without_a_record_the_samples_are_the_same_bits():
  tokens, ids = prompts_of(3)
  layout = rollout.make_layout(3, 4, 5)
  full = run(layout, tokens, ids)
  bare = run(layout, tokens, ids, is_recorded=False)
  assert bare.latents.shape == (1, *full.latents.shape[1:])
  np.testing.assert_array_equal(bare.latents[-1], full.latents[-1])
  np.testing.assert_array_equal(bare.mask, full.mask)


def test_record_is_the_chain_it_says():
  """Each stored step, recomputed in float64 from the stored latents."""
  tokens, ids = prompts_of(3)
  table = table_of("dance_sde")
  trajectory = run(rollout.make_layout(3, 4, 5), tokens, ids, table)
  params = jax.tree.map(np.float64, jax.device_get(PARAMS))
  prompt = params["embed"][tokens].sum(1)[trajectory.prompt_index]
  for i in range(4):
    x, x_next = np.float64(trajectory.latents[i : i + 2])
    flat = x.reshape(len(x), -1)
    t, s, dt = table.t[i], table.diffusion[i], table.t[i] - table.t_next[i]
    v = flat - np.tanh(flat @ params["mix"] + prompt + t)
    mean = flat - dt * (v + s**2 / (2 * t) * (flat + (1 - t) * v))
    error = (x_next.reshape(len(x), -1) - mean) ** 2
    std = np.float64(table.std[i])
    log_p = -error / (2 * std**2) - np.log(std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(
      trajectory.log_probs[i], log_p.mean(1), atol=3e-4
    )
    assert 0.5 < error.mean() / std**2 < 1.5


def test_outside_the_window_nothing_is_drawn():
  """The chain is the ODE's before and after, and has no density there."""
  tokens, ids = prompts_of(2)
  noisy = schedule.window_mask(6, 2, 2)
  layout = rollout.make_layout(2, 3, 6)
  windowed = run(layout, tokens, ids, table_of("flow_sde", 6, noisy))
  ode = run(layout, tokens, ids, table_of("ode", 6))
  np.testing.assert_array_equal(windowed.latents[0], ode.latents[0])
  np.testing.assert_allclose(windowed.latents[:3], ode.latents[:3], atol=1e-6)
  assert np.abs(windowed.latents[3] - ode.latents[3]).max() > 0.1
  np.testing.assert_array_equal(windowed.log_probs[~noisy], 0.0)
  assert (windowed.log_probs[noisy] != 0).all()
  assert (ode.log_probs == 0).all()


def test_samples_of_one_prompt_differ_and_copies_of_a_prompt_agree():
  """Noise belongs to (prompt, member): a prompt listed twice repeats itself."""
  tokens, ids = prompts_of(3)
  tokens, ids = tokens[[0, 1, 0]], ids[[0, 1, 0]]
  trajectory = run(rollout.make_layout(3, 4, 12), tokens, ids)
  latents, _ = grouped(trajectory, 3, 4)
  np.testing.assert_array_equal(latents[0, 0], latents[0, 2])
  distinct = latents[0, :2].reshape(8, -1)
  assert len(np.unique(distinct, axis=0)) == 8


def test_no_noise_is_shared_between_samples_or_steps():
  """The noise of each step, recovered from the record, is new everywhere."""
  tokens, ids = prompts_of(16)
  table = table_of("dance_sde", 4)
  trajectory = run(rollout.make_layout(16, 16, 64), tokens, ids, table)
  x, log_p = trajectory.latents, trajectory.log_probs
  draws = [x[0].reshape(256, -1)]
  for i in range(4):
    step = jax.tree.map(lambda r, i=i: jnp.asarray(r[i]), table)
    cond = POLICY.encode(PARAMS, jnp.asarray(tokens))
    cond = rollout.gather_cond(cond, trajectory.prompt_index)
    v = POLICY.velocity(PARAMS, x[i], jnp.full(256, step.t), cond)
    noise = (x[i + 1] - steppers.mean(x[i], v, step)) / step.std
    draws.append(np.asarray(noise).reshape(256, -1))
  rows = np.concatenate(draws).astype(np.float64)  # [(T + 1) B, 48]
  correlation = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
  assert np.abs(correlation).max() < 6.5 / np.sqrt(rows.shape[1])
  assert abs(correlation.mean()) < 5 / np.sqrt(rows.size)
  assert correlation.std() == pytest.approx(1 / np.sqrt(48), rel=0.1)
  assert np.isfinite(log_p).all()


def test_guidance_enters_mean_and_log_probability():
  tokens, ids = prompts_of(2)
  layout = rollout.make_layout(2, 2, 4)
  plain = run(layout, tokens, ids)
  guided = run(layout, tokens, ids, guidance_scale=3.0)
  np.testing.assert_array_equal(guided.latents[0], plain.latents[0])
  assert np.abs(guided.latents[1] - plain.latents[1]).max() > 1e-2
  # The first step's noise is the same, so its density is too.
  np.testing.assert_allclose(guided.log_probs[0], plain.log_probs[0], atol=1e-4)


def test_the_gradient_of_gathered_rows_adds_them_up():
  generator = np.random.default_rng(0)
  index = generator.integers(0, 4, 11)
  cond = {
    "kv": jnp.asarray(generator.normal(size=(4, 3, 2)), jnp.float32),
    "mask": jnp.asarray(generator.random((4, 3)) < 0.5),
  }
  weight = generator.normal(size=(11, 3, 2))
  taken = rollout.gather_cond(cond, jnp.asarray(index))
  np.testing.assert_array_equal(taken["kv"], np.asarray(cond["kv"])[index])
  np.testing.assert_array_equal(taken["mask"], np.asarray(cond["mask"])[index])

  def total(kv):
    taken = rollout.gather_cond(cond | {"kv": kv}, jnp.asarray(index))
    return (taken["kv"] * weight).sum()

  expected = np.zeros((4, 3, 2))
  np.add.at(expected, index, weight)
  np.testing.assert_allclose(jax.grad(total)(cond["kv"]), expected, atol=1e-6)
