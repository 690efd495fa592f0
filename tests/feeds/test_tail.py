"""Reward gradients through the last steps: finite differences, and memory."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds, objectives
from jaxreward.feeds import tail
from jaxreward.flow import rollout, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.types import Policy

SIDE, PROMPTS, GROUP = (4, 4, 1), 2, 3


def policy_of(shape=SIDE) -> Policy:
  """v = x (w_0 + w_1 t) + c; affine in x, and in nothing else."""
  return Policy(
    init=lambda key: jnp.array([0.3, -0.2, 0.1]),
    encode=lambda params, tokens: params[2] * (1.0 + tokens[:, 0]),
    velocity=lambda params, x, t, cond: (
      x * (params[0] + params[1] * t)[:, None, None, None]
      + cond[:, None, None, None]
    ),
    to_pixels=lambda x, decoder=None: x,
    latent_shape=shape,
  )


def plan_of(steps=6, last=2, shape=SIDE, group=GROUP):
  layout = rollout.make_layout(PROMPTS, group, 4)
  return feeds.Plan(
    table=steppers.ode(np.linspace(1.0, 0.0, steps + 1)), trained=(0,),
    layout=layout, rows=layout, prompts=PROMPTS, group=group, updates=1,
    guidance_scale=1.0, feed=feeds.FEEDS["tail"], last_steps=last,
  )  # fmt: skip


TOKENS = np.array([[0], [1]], np.int32)


def drawn(plan, params, policy):
  drawer = plan.sampler(policy, plan.layout)
  return drawer.sample(
    params, jax.random.key(0), TOKENS, np.arange(PROMPTS), tail=plan.last_steps
  )


def recorded(plan, params, policy):
  drawer = Sampler(policy, plan.table, plan.layout, is_recorded=True)
  return drawer.sample(params, jax.random.key(0), TOKENS, np.arange(PROMPTS))


@pytest.mark.turns(2)
def test_a_score_without_a_slope_is_masked_and_no_more():
  """An infinite slope in a row that does not count reaches no parameter."""
  plan, policy = plan_of(last=1), policy_of()
  params = policy.init(None)
  x_t = drawn(plan, params, policy).latents[0]
  mask = jnp.arange(len(x_t)) % 2 == 0
  rows = {
    "x_t": x_t, "mask": mask, "step": jnp.int32(1),
    "prompt_index": jnp.asarray(plan.layout.prompt_index),
  }  # fmt: skip

  def loss(params):
    network = feeds.Network(policy, params, TOKENS, plan)

    def score(latents, index):
      mean = latents.mean((1, 2, 3))
      bad = jnp.sqrt(jnp.where(mask, 1.0, 0.0) * (mean + 10) ** 2)
      return bad, latents

    arrays = feeds.Arrays(
      plan.feed, rows, {"policy": lambda: network}, plan, score
    )
    return objectives.align_prop(arrays("scores"), mask)[0].total

  assert np.isfinite(jax.grad(loss)(params)).all()


def total_score(plan, params, policy, x_t, depth=None):
  """Sum of the feed's scores for latents before the last steps."""
  rows = {
    "x_t": x_t, "mask": jnp.ones(len(x_t), bool),
    "prompt_index": jnp.asarray(plan.layout.prompt_index),
    "step": jnp.int32(plan.last_steps if depth is None else depth),
  }  # fmt: skip
  network = feeds.Network(policy, params, TOKENS, plan)
  score = lambda latents, index: (jnp.sin(latents).mean((1, 2, 3)), latents)
  arrays = feeds.Arrays(
    plan.feed, rows, {"policy": lambda: network}, plan, score
  )
  return arrays("scores").sum()


def reference(plan, params, x_t):
  """The same in float64, written out."""
  params, x = np.asarray(params, np.float64), np.asarray(x_t, np.float64)
  times = np.linspace(1.0, 0.0, len(plan.table.t) + 1)[-plan.last_steps - 1 :]
  cond = params[2] * (1.0 + TOKENS[plan.layout.prompt_index, 0])
  for t, t_next in itertools.pairwise(times):
    v = x * (params[0] + params[1] * t) + cond[:, None, None, None]
    x = x - (t - t_next) * v
  return np.sin(x).mean((1, 2, 3)).sum()


@pytest.mark.turns(3)
@pytest.mark.parametrize("last", [1, 2, 6])  # one, some, and the whole chain
def test_the_gradient_is_that_of_the_last_steps(last):
  plan, policy = plan_of(last=last), policy_of()
  params = policy.init(None)
  x_t = drawn(plan, params, policy).latents[0]
  value, slope = jax.value_and_grad(total_score, 1)(plan, params, policy, x_t)
  np.testing.assert_allclose(value, reference(plan, params, x_t), rtol=1e-5)
  eps = 1e-6
  for i, unit in enumerate(np.eye(3)):
    up, down = (
      reference(plan, np.asarray(params) + s * eps * unit, x_t) for s in (1, -1)
    )
    np.testing.assert_allclose(slope[i], (up - down) / (2 * eps), rtol=2e-4)


def test_the_rows_lead_to_the_pictures_that_were_scored():
  """The steps run again end where the rollout ended."""
  plan, policy = plan_of(last=3), policy_of()
  params = policy.init(None)
  latents = drawn(plan, params, policy).latents
  rows = {
    "x_t": latents[0], "prompt_index": jnp.asarray(plan.layout.prompt_index),
    "step": jnp.int32(3),
  }  # fmt: skip
  network = feeds.Network(policy, params, TOKENS, plan)
  arrays = feeds.Arrays(plan.feed, rows, {"policy": lambda: network}, plan)
  np.testing.assert_allclose(arrays("latents"), latents[1], atol=1e-6)


def test_latents_before_the_tail_are_those_of_a_whole_rollout():
  plan, policy = plan_of(last=2), policy_of()
  params = policy.init(None)
  tail = drawn(plan, params, policy).latents
  whole = recorded(plan, params, policy).latents
  np.testing.assert_array_equal(tail[0], whole[-3])
  np.testing.assert_array_equal(tail[1], whole[-1])


def _temporary(function, *arguments) -> int:
  compiled = jax.jit(function).lower(*arguments).compile()
  memory = compiled.memory_analysis()
  return memory.temp_size_in_bytes + memory.output_size_in_bytes


@pytest.mark.job
@pytest.mark.turns(3)
def test_memory_is_bounded_in_the_number_of_steps():
  """By the compiler's own account; a rollout that keeps every step grows."""
  shape = (64, 64, 4)
  policy = policy_of(shape)
  params = policy.init(None)

  def held(steps, keep):
    plan = plan_of(steps=steps, shape=shape)

    def run(params):
      if keep:
        return recorded(plan, params, policy).latents
      x_t = drawn(plan, params, policy).latents[0]
      return jax.grad(total_score, 1)(plan, params, policy, x_t)

    return _temporary(run, params)

  assert held(24, False) < 1.1 * held(6, False)
  assert held(24, True) > 2 * held(6, True)


def test_memory_of_the_gradient_grows_by_one_latent_a_step():
  shape, policy = (64, 64, 4), policy_of((64, 64, 4))
  params = policy.init(None)

  def held(last):
    plan = plan_of(steps=20, last=last, shape=shape)
    x_t = jax.ShapeDtypeStruct((len(plan.layout.mask), *shape), jnp.float32)
    run = lambda p, x: jax.grad(total_score, 1)(plan, p, policy, x)
    return _temporary(run, params, x_t), x_t.size * 4

  (eight, latent), (sixteen, _) = held(8), held(16)
  assert 7 * latent < sixteen - eight < 9 * latent


def test_last_steps_of_another_plan_are_another_gradient():
  policy = policy_of()
  params = policy.init(None)
  first = drawn(plan_of(last=1), params, policy).latents[0]
  slopes = [
    jax.grad(total_score, 1)(
      dataclasses.replace(plan_of(), last_steps=k), params, policy, first
    )
    for k in (1, 2)
  ]
  assert not np.allclose(*slopes)


@pytest.mark.turns(3)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_steps_before_the_depth_are_constants(depth):
  """Of 4 steps run again, the gradient is that of the last `depth` alone."""
  policy = policy_of()
  params = policy.init(None)
  plan = plan_of(last=4)
  x_t = drawn(plan, params, policy).latents[0]
  got = jax.grad(total_score, 1)(plan, params, policy, x_t, depth)
  short = dataclasses.replace(plan, last_steps=depth)
  middle = drawn(short, params, policy).latents[0]
  want = jax.grad(total_score, 1)(short, params, policy, middle)
  # A constant velocity still leaves x itself in the next steps' slope.
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_the_normal_depth_is_that_of_the_released_code():
  """floor(N(42, 5)) redrawn until 1 <= k < 50: P(k = 49) = .0275, mean 9.09."""
  keys = jax.random.split(jax.random.key(1), 20_000)
  depth = np.asarray(jax.vmap(lambda k: tail.normal(k, 49))(keys))
  assert depth.min() == 1 and depth.max() <= 49
  assert abs(depth.mean() - 9.0887) < 4 * depth.std() / len(depth) ** 0.5
  share = (depth == 1).mean()
  assert abs(share - 0.0275) < 4 * (0.0275 / len(depth)) ** 0.5
  draws = np.floor(np.random.default_rng(0).normal(42, 5, 40_000))
  peer = 50 - draws[(draws >= 1) & (draws < 50)]
  edges = [1, 4, 7, 10, 13, 16, 50]
  a, b = (np.histogram(x, edges)[0] / len(x) for x in (depth, peer))
  np.testing.assert_allclose(a, b, atol=0.02)


def test_the_uniform_depth_is_even():
  keys = jax.random.split(jax.random.key(2), 4000)
  depth = np.asarray(jax.vmap(lambda k: tail.uniform(k, 4))(keys))
  counts = np.unique(depth, return_counts=True)
  assert counts[0].tolist() == [1, 2, 3, 4]
  assert np.abs(counts[1] / 1000 - 1).max() < 0.1


def test_the_drift_is_that_of_the_steps_with_a_gradient():
  """IPRO's tie: 0 at the reference, else against a loop in float64."""
  plan, policy = plan_of(last=3), policy_of()
  params, start = policy.init(None), jnp.array([0.1, 0.4, -0.3])
  x_t = drawn(plan, params, policy).latents[0]
  index = jnp.asarray(plan.layout.prompt_index)

  def drift(params, depth):
    rows = {"x_t": x_t, "prompt_index": index, "step": jnp.int32(depth)}
    networks = {
      role: lambda p=p: feeds.Network(policy, p, TOKENS, plan)
      for role, p in (("policy", params), ("reference", start))
    }
    arrays = feeds.Arrays(plan.feed, rows, networks, plan)
    return arrays("drift")

  run = jax.jit(drift)
  np.testing.assert_array_equal(run(start, 3), 0.0)
  times = np.linspace(1.0, 0.0, len(plan.table.t) + 1)[-4:]
  tokens = 1.0 + TOKENS[plan.layout.prompt_index, 0][:, None, None, None]
  a, b = (np.asarray(p, np.float64) for p in (params, start))
  x, gaps = np.asarray(x_t, np.float64), []
  for t, t_next in itertools.pairwise(times):
    v, still = (x * (p[0] + p[1] * t) + p[2] * tokens for p in (a, b))
    gaps.append(((v - still) ** 2).mean((1, 2, 3)))
    x = x - (t - t_next) * v
  for depth in (1, 3):
    want = np.mean(gaps[-depth:], 0)
    np.testing.assert_allclose(run(params, depth), want, rtol=1e-4)
