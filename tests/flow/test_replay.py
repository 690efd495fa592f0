"""The ratio is exactly 1: a stored rollout, replayed through a gradient program.

Rollout and replay are two programs: the first is forward only and runs all
steps of a chunk in one scan, the second differentiates each stored transition.
Before a parameter changes their log-probabilities must be equal bit for bit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rng
from jaxreward.flow import guidance, log_prob, rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.models import blocks
from jaxreward.models.policies import scene_dit
from jaxreward.tasks.scenes import grammar

pytestmark = [pytest.mark.job, pytest.mark.optimized, pytest.mark.turns(2, 0)]

SMALL = dict(width=32, depth=2, heads=2, text_layers=1)


def perturb(params, scale=0.05):
  """Moves the parts that start at zero, which would hide any difference."""
  leaves, tree = jax.tree.flatten(params)
  key = jax.random.key(1)
  return jax.tree.unflatten(
    tree,
    [
      leaf + scale * jax.random.normal(jax.random.fold_in(key, i), leaf.shape)
      for i, leaf in enumerate(leaves)
    ],
  )


def prompts_of(count):
  chosen = grammar.prompts("train")
  return grammar.batch(chosen[:: len(chosen) // count][:count])


def record(policy, params, prompts, layout, table, scale):
  @jax.jit
  def sample(params, tokens, ids):
    key = rng.stream_key(0, "rollout", 0)
    drawer = Sampler(policy, table, layout, scale, is_recorded=True)
    return drawer.sample(params, key, tokens, ids)

  return sample(params, prompts.tokens, prompts.ids)


def transitions(trajectory, layout, table):
  """(x_t, x_next, prompt index, step facts) with leaves [T C, M, ...]."""
  steps = len(table.t)

  def cut(x):
    x = x.reshape(steps, -1, layout.chunks, *x.shape[2:]).swapaxes(1, 2)
    return x.reshape(steps * layout.chunks, *x.shape[2:])

  index = jnp.broadcast_to(
    trajectory.prompt_index, (steps, *trajectory.prompt_index.shape)
  )
  facts = jax.tree.map(lambda r: jnp.repeat(r, layout.chunks), table)
  latents = trajectory.latents
  rows = cut(latents[:-1]), cut(latents[1:]), cut(index), facts
  return rows, np.asarray(cut(trajectory.log_probs))


def replay(policy, scale):
  """A jitted function: summed log-probability's gradient, and each value."""

  def total(params, rows, tokens):
    x_t, x_next, index, facts = rows
    cond, uncond = guidance.conditioning(policy, params, tokens, scale)
    log_p, _ = log_prob.step_log_prob(
      policy,
      params,
      rollout.gather_cond(cond, index),
      uncond,
      x_t,
      x_next,
      facts,
      guidance_scale=scale,
    )
    return log_p.sum(), log_p

  @jax.jit
  def run(params, rows, tokens):
    def body(grads, row):
      (_, log_p), more = jax.value_and_grad(total, has_aux=True)(
        params, row, tokens
      )
      return jax.tree.map(jnp.add, grads, more), log_p

    zero = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(body, zero, rows)

  return run


def gap(
  *,
  prompts=3,
  group=5,
  rows=8,
  steps=3,
  sampler="flow_sde",
  scale=1.0,
  **model,
):
  """(largest |difference|, the log-probabilities) of a replay."""
  policy = scene_dit.make_policy(**{**SMALL, **model})
  params = perturb(jax.jit(policy.init)(jax.random.key(0)))
  batch = prompts_of(prompts)
  layout = rollout.make_layout(prompts, group, rows)
  table = steppers.REGISTRY[sampler](schedule.timesteps(steps, 3.0))
  trajectory = record(policy, params, batch, layout, table, scale)
  data, stored = transitions(trajectory, layout, table)
  grads, again = replay(policy, scale)(params, data, batch.tokens)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) > 0
  assert np.isfinite(stored).all() and len(np.unique(stored)) > 0.5 * steps
  return np.abs(np.asarray(again) - stored).max(), stored


@pytest.mark.parametrize("unroll", [1, 2])
@pytest.mark.parametrize("remat", blocks.REMAT)
def test_replay_is_exact(remat, unroll):
  assert gap(remat=remat, unroll=unroll)[0] == 0.0


@pytest.mark.parametrize("sampler", ["dance_sde", "cps"])
def test_replay_is_exact_for_every_sampler(sampler):
  assert gap(sampler=sampler)[0] == 0.0


def test_replay_is_exact_with_guidance():
  assert gap(scale=2.5)[0] == 0.0


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("rows", [5, 15])
def test_replay_is_exact_in_any_geometry(steps, rows):
  """One step and one chunk let the compiler remove both loops."""
  assert gap(steps=steps, rows=rows)[0] == 0.0


def test_replay_is_exact_in_half_precision():
  assert gap(dtype="bfloat16")[0] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
  ("remat", "unroll"), [("none", 4), ("none", 1), ("dots", 4), ("full", 1)]
)
def test_replay_is_exact_at_the_real_size(remat, unroll):
  size = dict(width=128, depth=4, heads=2, text_layers=2)
  geometry = dict(prompts=8, group=16, rows=64, steps=3)
  assert gap(remat=remat, unroll=unroll, **size, **geometry)[0] == 0.0


def numpy_log_prob(x, v, x_next, table, i):
  """Mean log density in float64, from the published form of the mean."""
  t, s = np.float64(table.t[i]), np.float64(table.diffusion[i])
  dt = t - table.t_next[i]
  mean = x - dt * (v + s**2 / (2 * t) * (x + (1 - t) * v))
  std = s * np.sqrt(dt)
  density = -((x_next - mean) ** 2) / (2 * std**2)
  return (density - np.log(std * np.sqrt(2 * np.pi))).mean((1, 2, 3))


@functools.cache
def arrays():
  draw = np.random.default_rng(0).normal(0, 1, (3, 2, 3, 3, 2))
  x, v, noise = draw.astype(np.float32)
  table = steppers.dance_sde(schedule.timesteps(6, 2.0), noise_level=0.5)
  step = jax.tree.map(lambda r: jnp.asarray(r[2]), table)
  x_next = np.asarray(steppers.mean(x, v, step) + step.std * noise)
  return x, v, x_next, table, step


def test_value_is_the_published_density():
  x, v, x_next, table, step = arrays()
  np.testing.assert_allclose(
    log_prob.transition(x, v, x_next, step),
    numpy_log_prob(*map(np.float64, (x, v, x_next)), table, 2),
    rtol=1e-5,
  )


def test_gradient_is_that_of_the_plain_form():
  x, v, x_next, _, step = arrays()
  weight = jnp.array([0.3, -1.7])

  def ours(v):
    return (weight * log_prob.transition(x, v, x_next, step)).sum()

  def plain(v):
    mean = steppers.mean(x, v, step)
    return (weight * steppers.log_prob(x_next, mean, step)).sum()

  np.testing.assert_allclose(
    jax.jit(jax.grad(ours))(v), jax.grad(plain)(v), rtol=1e-5, atol=1e-7
  )


def test_gradient_by_finite_differences():
  x, v, x_next, table, step = arrays()
  grad = jax.grad(lambda v: log_prob.transition(x, v, x_next, step).sum())(v)
  wide = [np.float64(a) for a in (x, v, x_next)]
  for place in [(0, 0, 0, 0), (1, 2, 1, 1), (0, 1, 2, 0)]:
    values = []
    for sign in (1, -1):
      moved = wide[1].copy()
      moved[place] += sign * 1e-5
      values.append(numpy_log_prob(wide[0], moved, wide[2], table, 2).sum())
    numeric = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(grad[place], numeric, rtol=1e-3)


def test_a_step_without_noise_has_no_density_and_no_gradient():
  x, v, x_next, _, _ = arrays()
  table = steppers.ode(schedule.timesteps(4))
  step = jax.tree.map(lambda r: jnp.asarray(r[3]), table)
  value, grad = jax.value_and_grad(
    lambda v: log_prob.transition(x, v, x_next, step).sum()
  )(v)
  assert value == 0.0
  np.testing.assert_array_equal(grad, 0.0)


def test_parameter_gradient_is_that_of_the_plain_form():
  """Through the network, the isolated form changes nothing."""
  policy = scene_dit.make_policy(**SMALL)
  params = perturb(jax.jit(policy.init)(jax.random.key(0)))
  tokens = jnp.asarray(prompts_of(2).tokens)
  _, _, _, _, step = arrays()
  x, x_next = jax.random.normal(jax.random.key(3), (2, 2, 36, 36, 3))

  def ours(params):
    cond = policy.encode(params, tokens)
    return log_prob.step_log_prob(policy, params, cond, None, x, x_next, step)[
      0
    ].sum()

  def plain(params):
    v = policy.velocity(
      params, x, jnp.full(2, step.t), policy.encode(params, tokens)
    )
    return steppers.log_prob(x_next, steppers.mean(x, v, step), step).sum()

  grads, expected = (
    jax.jit(jax.grad(ours))(params),
    jax.jit(jax.grad(plain))(params),
  )
  largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * largest),
    grads,
    expected,
  )
