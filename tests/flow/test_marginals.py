"""Every sampler reaches the marginals of the probability-flow ODE.

On a Gaussian target the velocity is affine, so the sampler's own mean and
variance follow exactly from its coefficients and can be held against the
closed form at every time, without Monte Carlo.
"""

import dataclasses

import gaussian_target as gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds, rng
from jaxreward.flow import schedule, steppers
from tests import tiny


def error(name, steps, shift=1.0, **kwargs):
  """Largest error of mean and standard deviation over all times."""
  times = schedule.timesteps(steps, shift)
  got = gaussian.propagate(steppers.REGISTRY[name](times, **kwargs))
  mean, var = gaussian.moments(np.float64(times))
  return np.abs([got[:, 0] - mean, np.sqrt(got[:, 1]) - np.sqrt(var)]).max()


CASES = [
  ("ode", {}, 1.0),
  ("ode", {}, 3.0),
  ("dance_sde", {"noise_level": 0.3}, 1.0),
  ("dance_sde", {"noise_level": 1.0}, 3.0),
  ("linear_sde", {}, 3.0),
]


@pytest.mark.parametrize(("name", "kwargs", "shift"), CASES)
def test_marginals_converge_at_first_order(name, kwargs, shift):
  errors = [error(name, n, shift, **kwargs) for n in (100, 200, 400, 800)]
  ratios = np.divide(errors[:-1], errors[1:])
  assert errors[-1] < 5e-3
  assert ((ratios > 1.8) & (ratios < 2.2)).all(), (errors, ratios)


@pytest.mark.parametrize("level", [0.7, 1.0])
def test_flow_sde_marginals_converge(level):
  """s = a sqrt(t / (1 - t)) is singular at t = 1.

  Near there the noise of a step does not shrink with its length, and what the
  first steps get wrong decays like (1 - t)^(a^2): the error falls with the
  number of steps to the power -a^2, not at first order.
  """
  counts = (200, 800, 3200)
  times = [schedule.timesteps(n) for n in counts]
  finals = []
  for t in times:
    table = steppers.flow_sde(t, noise_level=level)
    got = gaussian.propagate(table)
    at = np.searchsorted(-t, -0.5)
    _, var = gaussian.moments(np.float64(t[at]))
    finals.append(abs(np.sqrt(got[at, 1]) - np.sqrt(var)))
  order = np.log(np.divide(finals[:-1], finals[1:])) / np.log(4)
  assert finals[-1] < 1e-2
  assert (order > 0.8 * level**2).all(), (finals, order)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_cps_is_exact_on_a_point(shift):
  """Where x0_hat is the truth, CPS keeps the marginal at any step count."""
  times = schedule.timesteps(7, shift)
  table = steppers.cps(times, noise_level=0.8)
  # A width of 1e-9 stands for a point; t = 0 itself is never evaluated.
  got = gaussian.propagate(table, std=1e-9)
  mean, var = gaussian.moments(np.float64(times), std=0.0)
  np.testing.assert_allclose(got[:, 0], mean, atol=1e-6)
  np.testing.assert_allclose(got[:, 1], var, atol=1e-6)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", ["ode", *steppers.NOISY])
def test_sampled_chunks_have_the_moments_of_the_recursion(name):
  """The scan, its noise and its constants together, on many samples."""
  policy, count = gaussian.policy((4, 4, 1)), 4096
  table = steppers.REGISTRY[name](schedule.timesteps(6, 2.0))
  keys = rng.sample_keys(
    rng.stream_key(0, "rollout"), np.zeros(count, np.uint32), np.arange(count)
  )
  params = policy.init(None)
  cond = policy.encode(params, np.zeros((count, 1), np.int32))
  sample = jax.jit(
    lambda p, k: tiny.sample_rows(
      policy, p, k, cond, None, table, is_recorded=True
    )
  )
  drawn = jax.device_get(sample(params, keys))
  latents, log_probs = drawn.latents, drawn.log_probs
  expected = gaussian.propagate(table)
  draws = latents.reshape(len(latents), -1).astype(np.float64)
  n = draws.shape[1]
  se_mean = np.sqrt(expected[:, 1] / n)
  se_var = expected[:, 1] * np.sqrt(2 / n)
  assert (np.abs(draws.mean(1) - expected[:, 0]) < 4.5 * se_mean + 1e-6).all()
  assert (np.abs(draws.var(1) - expected[:, 1]) < 4.5 * se_var + 1e-6).all()
  noisy = np.asarray(table.std) > 0
  assert (log_probs[~noisy] == 0).all()
  if name in ("flow_sde", "dance_sde", "linear_sde"):
    # The mean log density of a Gaussian is minus its entropy.
    entropy = 0.5 * np.log(2 * np.pi * np.e * np.float64(table.std) ** 2)
    np.testing.assert_allclose(log_probs.mean(1), -entropy, atol=0.015)


@pytest.mark.turns(2)
def test_heun_is_of_second_order():
  """Euler's error halves with twice the steps, Heun's falls to a quarter."""
  policy = gaussian.policy((1, 1, 1))
  params = policy.init(None)
  count = 8
  keys = rng.sample_keys(
    rng.stream_key(0, "rollout"), np.zeros(count, np.uint32), np.arange(count)
  )
  cond = policy.encode(params, np.zeros((count, 1), np.int32))
  finals = {}
  for name in ("ode", "heun"):
    for steps in (16, 32):
      table = steppers.REGISTRY[name](schedule.timesteps(steps))
      drawn = tiny.sample_rows(
        policy, params, keys, cond, None, table, is_recorded=True
      )
      first, last = np.float64(drawn.latents)[[0, -1]]
      # The exact flow maps quantiles to quantiles.
      finals[name, steps] = np.abs(
        last - gaussian.MEAN - gaussian.STD * first
      ).max()
      assert not np.any(drawn.log_probs)
  for name, order in (("ode", 1), ("heun", 2)):
    ratio = finals[name, 16] / finals[name, 32]
    assert abs(np.log2(ratio) - order) < 0.35, (name, finals)
  assert finals["heun", 16] < finals["ode", 32] / 4


def test_the_last_step_of_heun_is_eulers():
  """It asks for no velocity at t = 0, where that of a single sample has none."""
  policy = dataclasses.replace(
    gaussian.policy((1, 1, 1)),
    velocity=lambda params, x, t, cond: (x - 0.7) / t[:, None, None, None],
  )
  keys = rng.sample_keys(
    rng.stream_key(0, "rollout"), np.zeros(4, np.uint32), np.arange(4)
  )
  cond = policy.encode({}, np.zeros((4, 1), np.int32))
  table = steppers.heun(schedule.timesteps(3))
  drawn = tiny.sample_rows(policy, {}, keys, cond, None, table)
  np.testing.assert_allclose(drawn.latents[-1], 0.7, atol=1e-5)


def test_a_drift_of_unit_length_begins_at_its_share_of_the_steps():
  g = np.random.default_rng(0).normal(2, 3, (5, 4, 4, 1)).astype(np.float32)
  drift = feeds.Drift("critic", 0.1, 0.75, is_unit=True)
  size = np.sqrt(np.square(g, dtype=np.float64).mean((1, 2, 3), keepdims=True))
  for i in range(8):
    want = 0.1 * g / size if i >= 6 else 0 * g
    np.testing.assert_allclose(
      drift.at(jnp.asarray(g), jnp.int32(i), 8), want, rtol=1e-5
    )


@pytest.mark.turns(2)
def test_a_drift_moves_the_marginals_as_its_gradient_says():
  """V = -(x - 3)^2 k / 2: every moved step maps a Gaussian to a known one."""
  policy, count, k, scale = gaussian.policy((4, 4, 1)), 4096, 2.0, 0.1
  table = steppers.dance_sde(schedule.timesteps(6, 2.0))
  params = policy.init(None)
  keys = rng.sample_keys(
    rng.stream_key(0, "rollout"), np.zeros(count, np.uint32), np.arange(count)
  )
  cond = policy.encode(params, np.zeros((count, 1), np.int32))
  drift = feeds.Drift("critic", scale, 0.5)
  push = lambda x, step, i, index: drift.at(-k * (x - 3.0), i, 6)
  draw = lambda push: jax.device_get(
    jax.jit(
      lambda p: tiny.sample_rows(
        policy, p, keys, cond, None, table, is_recorded=True, push=push
      )
    )(params)
  )
  moved, plain = draw(push), draw(None)
  np.testing.assert_array_equal(moved.latents[:4], plain.latents[:4])
  mean, var = gaussian.propagate(table)[3]
  for i in range(3, 6):
    t, c_x, c_v, std = (
      float(x[i]) for x in (table.t, table.c_x, table.c_v, table.std)
    )
    a, b = gaussian.affine(t)
    gain = c_x + c_v * a - scale * k
    mean = gain * mean + c_v * b + scale * k * 3.0
    var = gain**2 * var + std**2
  last = np.float64(moved.latents[-1])
  assert abs(last.mean() - mean) < 4.5 * np.sqrt(var / last.size)
  assert abs(last.var() - var) < 4.5 * var * np.sqrt(2 / last.size)
  # The density is that of the step which was not moved.
  i, (x, after) = 4, np.float64(moved.latents[4:6])
  a, b = gaussian.affine(float(table.t[i]))
  want = after - (float(table.c_x[i]) * x + float(table.c_v[i]) * (a * x + b))
  std = float(table.std[i])
  want = -np.square(want).mean((1, 2, 3)) / (2 * std**2) - np.log(std)
  want -= 0.5 * np.log(2 * np.pi)
  np.testing.assert_allclose(moved.log_probs[i], want, rtol=1e-3, atol=1e-3)
