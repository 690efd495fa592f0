"""Credit of steps: gains that add up, compared step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages, feeds
from jaxreward.flow import rollout, steppers
from jaxreward.flow.sampler import Sampler, Share
from jaxreward.setup import updates
from jaxreward.types import Policy


def test_the_published_example():
  """Two samples, rewards (.2, .5, .9) and (.4, .3, .7): only step 1 teaches."""
  signal = np.array([[[0.2, 0.5, 0.9], [0.4, 0.3, 0.7]]], np.float32)
  got = advantages.dense(signal, np.ones(signal.shape, bool), epsilon=0.0)
  np.testing.assert_allclose(got[0, :, 0], [1.0, -1.0], rtol=1e-5)
  np.testing.assert_allclose(advantages.gains(signal)[0, :, 1], 0.4, rtol=1e-5)
  assert np.abs(got[0, :, 1]).max() < 1.1  # equal but for rounding


def test_the_gains_of_a_sample_add_up():
  signal = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
  total = np.asarray(advantages.gains(signal)).sum(-1)
  np.testing.assert_allclose(total, signal[..., -1] - signal[..., 0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_float64(seed):
  rng = np.random.default_rng(seed)
  signal, mask = rng.normal(size=(3, 5, 6)), rng.random((3, 5, 6)) > 0.1
  dirty = np.where(mask, signal, np.nan).astype(np.float32)
  got = np.asarray(advantages.dense(dirty, mask, clip=1.3))
  want = np.zeros((3, 5, 5))
  for p in range(3):
    kept = [g for g in range(5) if mask[p, g].all()]
    for t in range(5):
      d = np.array([signal[p, g, t + 1] - signal[p, g, t] for g in kept])
      if len(kept):
        a = (d - d.mean()) / (d.std() + 1e-4)
        want[p, kept, t] = np.clip(a, -1.3, 1.3)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def linear() -> Policy:
  return Policy(
    init=lambda key: jnp.array([0.4, 0.2]),
    encode=lambda params, tokens: tokens[:, 0] * params[1],
    velocity=lambda params, x, t, cond: (
      x * params[0] + (cond * t)[:, None, None, None]
    ),
    to_pixels=lambda x, decoder=None: x,
    latent_shape=(3, 3, 1),
  )


@pytest.mark.turns(2)
@pytest.mark.parametrize("sampler", ["ode", "flow_sde"])
def test_latents_of_a_step_are_finished_by_the_ode(sampler):
  """Without noise they end in the sample: then no step gains anything."""
  policy, tokens = linear(), np.array([[1], [2]], np.int32)
  params, times = policy.init(None), np.linspace(1.0, 0.0, 6)
  layout = rollout.make_layout(2, 3, 4)
  table = steppers.REGISTRY[sampler](times)
  drawer = Sampler(policy, table, layout, is_recorded=True)
  trajectory = drawer.sample(params, jax.random.key(0), tokens, np.arange(2))
  finish = jax.jit(
    lambda first, jumps=False: drawer.finish(
      params, tokens, trajectory.latents[first], first, jumps=jumps
    ),
    static_argnums=1,
  )
  ends = [np.asarray(finish(first)) for first in range(6)]
  np.testing.assert_array_equal(ends[5], trajectory.latents[5])
  for first in range(5):
    x = np.asarray(trajectory.latents[first], np.float64)
    cond = tokens[layout.prompt_index, 0] * 0.2
    for i in range(first, 5):
      v = x * 0.4 + (cond * times[i])[:, None, None, None]
      x = x - (times[i] - times[i + 1]) * v
    np.testing.assert_allclose(ends[first], x, atol=1e-5)
    x = np.asarray(trajectory.latents[first], np.float64)
    v = x * 0.4 + (cond * times[first])[:, None, None, None]
    want = x - times[first] * v  # one Euler step to the end
    np.testing.assert_allclose(finish(first, True), want, atol=1e-5)
  if sampler == "ode":
    for end in ends:
      np.testing.assert_allclose(end, trajectory.latents[5], atol=1e-5)


def aside(sampler="flow_sde", **options):
  """(sampler, its trajectory): groups of four, pairs share their start."""
  policy, tokens = linear(), np.array([[1], [2]], np.int32)
  table = steppers.REGISTRY[sampler](np.linspace(1.0, 0.0, 6))
  drawer = Sampler(
    policy, table, rollout.make_layout(2, 4, 3), is_recorded=True,
    share=Share((2,), (0,)), **options,
  )  # fmt: skip
  draw = jax.jit(lambda params: drawer.sample(
    params, jax.random.key(0), tokens, np.arange(2)
  ))  # fmt: skip
  return drawer, draw(policy.init(None))


@pytest.mark.turns(2)
def test_steps_aside_leave_a_chain_without_noise():
  """The chain is the ODE's; a step aside is that of the SDE from there."""
  drawer, got = aside(is_aside=True)
  _, ode = aside("ode")
  _, sde = aside()
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  close(got.latents, ode.latents)
  assert sde.aside is None
  # From the same start the first step draws the same noise, with the same density.
  close(got.aside[0], sde.latents[1])
  close(got.log_probs[0], sde.log_probs[0])
  times, table = np.linspace(1.0, 0.0, 6), drawer.table
  cond = 0.2 * np.array([1, 2])[np.asarray(got.prompt_index)]
  for i in range(5):
    x = np.asarray(got.latents[i], np.float64)
    mean = table.c_x[i] * x + table.c_v[i] * (
      0.4 * x + (cond * times[i])[:, None, None, None]
    )
    error = np.asarray(got.aside[i], np.float64) - mean
    std = np.float64(table.std[i])
    want = -(error**2) / (2 * std**2) - np.log(std) - np.log(2 * np.pi) / 2
    np.testing.assert_allclose(
      got.log_probs[i], want.mean((1, 2, 3)), rtol=1e-4, atol=1e-5
    )
  # Members of a pair share the chain, and each has noise of its own.
  chain, noisy = (np.asarray(x)[:, np.asarray(got.mask)] for x in
                  (got.latents, got.aside))  # fmt: skip
  chain, noisy = (x.reshape(len(x), 4, 2, -1) for x in (chain, noisy))
  np.testing.assert_array_equal(chain[:, :, 0], chain[:, :, 1])
  assert np.abs(noisy[:, :, 0] - noisy[:, :, 1]).min() > 0


def test_what_a_step_has_led_to_is_finished():
  """`finish` at step i starts from where step i - 1 has led aside."""
  _, got = aside(is_aside=True)
  for first in range(6):
    want = got.aside[first - 1] if first else got.latents[0]
    np.testing.assert_array_equal(
      updates.before_step(got, jnp.int32(first)), want
    )


@pytest.mark.turns(2)
def test_steps_aside_are_what_a_loss_reads():
  """Rows lead from the chain to the branch; a NaN there is masked."""
  drawer, got = aside(is_aside=True)
  got = got.replace(aside=got.aside.at[2, 3].set(jnp.nan))
  layout = drawer.layout
  plan = feeds.Plan(
    table=drawer.table, trained=(0, 2), layout=layout, rows=layout, prompts=2,
    group=4, updates=1, guidance_scale=1.0, feed=feeds.FEEDS["steps"],
  )  # fmt: skip
  ones = jnp.ones((2, 4))
  credit = feeds.Credit(ones, ones, ones > 0)
  rows = plan.feed.make(got, credit, np.arange(2), plan, jax.random.key(0))
  kept = np.asarray(got.mask).copy()
  kept[3] = False
  np.testing.assert_array_equal(rows["mask"], np.stack([kept, kept]))
  for k, i in enumerate((0, 2)):
    np.testing.assert_array_equal(rows["x_t"][k][kept], got.latents[i][kept])
    np.testing.assert_array_equal(rows["x_next"][k][kept], got.aside[i][kept])
  assert np.isfinite(rows["x_next"]).all()


def test_branches_are_compared_step_by_step_and_weighed_by_noise():
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(3, 6, 6))
  mask = np.ones(signal.shape, bool)
  mask[1, 2, 4] = False
  table = steppers.flow_sde(np.linspace(1.0, 0.0, 6))
  got = advantages.branched(
    np.where(mask, signal, np.nan).astype(np.float32), mask, table, clip=1.3
  )
  kept = mask.all(-1)
  want = np.zeros((3, 6, 5))
  for p in range(3):
    rows = signal[p, kept[p], 1:]
    score = (rows - rows.mean(0)) / (rows.std(0) + 1e-4)
    want[p, kept[p]] = np.clip(score, -1.3, 1.3) * 2.25 * table.std
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  # Equal rewards of a step, as of one without noise, teach nothing.
  flat = np.broadcast_to(signal[..., :1], signal.shape).copy()
  flat[..., 1:] = 0.5
  np.testing.assert_array_equal(
    advantages.branched(flat, np.ones_like(mask), table), 0
  )


def test_noise_is_calibrated_until_as_many_gain_as_lose():
  """12 of 24 that gain raise a level, 13 lower it; prompts are averaged."""
  method = advantages.calibrated(iterations=2, start=0.7)
  state = method.init(advantages.Sizes(2, 24, 3, lambda: np.arange(2)))
  gain = np.ones((2, 24, 3), np.float32)
  gain[:, 12:] = -1  # balanced
  gain[:, 12, 1] = 1  # 13 to 11
  gain[0, 12, 2] = 1  # in one of two prompts
  signal = np.concatenate([np.zeros((2, 24, 1)), gain.cumsum(-1)], -1)
  mask = np.ones(signal.shape, bool)
  for n in (1, 2, 2):
    credit, state = method.update(signal, mask, state)
    want = 0.7 + n * np.array([0.01, -0.01, 0.0])
    np.testing.assert_allclose(method.levels(state), want, rtol=1e-6)
  np.testing.assert_array_equal(credit, advantages.dense(signal, mask))


def test_levels_that_are_all_alike_are_dance_sdes():
  times = np.linspace(1.0, 0.0, 6)
  table = steppers.dance_sde(times, np.arange(5) < 3, noise_level=0.4)
  other = steppers.dance_sde(times, np.arange(5) < 3, noise_level=0.7)
  got = steppers.with_levels(other, np.full(5, 0.4))
  for name in ("c_x", "c_v", "std", "diffusion", "t"):
    np.testing.assert_allclose(
      getattr(got, name), getattr(table, name), rtol=1e-5, atol=1e-7
    )
