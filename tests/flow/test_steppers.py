"""Steps against float64 references written from the published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxreward.errors import UserError
from jaxreward.flow import schedule, steppers
from jaxreward.regularizers import step_kl

SHIFTS = (1.0, 2.5, 3.0, 5.0)
LEVELS = {"flow_sde": 0.7, "dance_sde": 0.3, "linear_sde": 1.0, "cps": 0.8}
STEPS = 10


def pick(table, index):
  return jax.tree.map(lambda row: jnp.asarray(row[index]), table)


def times64(shift, steps=STEPS):
  u = 1 - np.arange(steps + 1) / steps
  return shift * u / (1 + (shift - 1) * u)


def reference_step(name, times, index, x, v, level):
  """(mean, std) in float64, in the score form of Flow-GRPO and DanceGRPO."""
  t, t_next = times[index], times[index + 1]
  delta = t - t_next
  if name == "cps":
    x0_hat, x1_hat = x - t * v, x + (1 - t) * v
    std = t_next * np.sin(level * np.pi / 2)
    return (1 - t_next) * x0_hat + np.sqrt(t_next**2 - std**2) * x1_hat, std
  if name == "flow_sde":
    s = level * np.sqrt(t / (1 - (times[1] if t == 1 else t)))
  elif name == "linear_sde":  # from times[1] at the first step's t down to 0
    s = level * (0.0 + (times[1] - 0.0) * t)
  else:
    s = {"ode": 0.0, "dance_sde": level}[name]
  score = -(x + (1 - t) * v) / t
  return x - delta * v + 0.5 * s**2 * delta * score, s * np.sqrt(delta)


def latents(seed=0, rows=3, shape=(4, 5, 3)):
  draw = np.random.default_rng(seed).normal(0, 1, (3, rows, *shape))
  return draw.astype(np.float32)


def make(name, shift=3.0, steps=STEPS, **kwargs):
  times = schedule.timesteps(steps, shift)
  if name in LEVELS:
    kwargs = {"noise_level": LEVELS[name]} | kwargs
  return steppers.REGISTRY[name](times, **kwargs)


def test_standard_deviations_equal_the_published_table():
  table = steppers.flow_sde(schedule.timesteps(10, 3.0), noise_level=0.7)
  published = [0.700, 0.738, 0.532, 0.441, 0.388, 0.350, 0.320, 0.290, 0.256]
  np.testing.assert_allclose(table.std, [*published, 0.202], atol=5e-4)


@pytest.mark.parametrize("steps", [2, 7, 10, 40])
@pytest.mark.parametrize("shift", SHIFTS)
def test_first_flow_sde_step_has_std_a(shift, steps):
  table = make("flow_sde", shift, steps, noise_level=0.7)
  assert table.std[0] == pytest.approx(0.7, abs=2e-7)


@pytest.mark.parametrize("index", [0, 1, 5, STEPS - 1])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", ["ode", *LEVELS])
def test_mean_and_std_equal_the_reference(name, shift, index):
  x, v, _ = latents()
  step = pick(make(name, shift), index)
  expected, std = reference_step(
    name,
    times64(shift),
    index,
    x.astype(np.float64),
    v.astype(np.float64),
    LEVELS.get(name),
  )
  actual = steppers.mean(x, v, step)
  np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)
  np.testing.assert_allclose(step.std, std, rtol=2e-6, atol=1e-9)


def test_dance_and_flow_means_agree_where_their_noise_does():
  times = schedule.timesteps(STEPS, 3.0)
  flow = steppers.flow_sde(times, noise_level=0.7)
  for i in range(STEPS):
    dance = steppers.dance_sde(times, noise_level=float(flow.diffusion[i]))
    for field in ("c_x", "c_v", "std"):
      np.testing.assert_allclose(
        getattr(dance, field)[i], getattr(flow, field)[i], rtol=2e-6
      )


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8, 1.0, 1.2, 1.8])
@pytest.mark.parametrize("shift", SHIFTS)
def test_cps_keeps_the_total_noise(shift, level):
  """Of x0_hat (1 - t') is kept; of noise, old and new, exactly t'."""
  table = make("cps", shift, noise_level=level)
  t, t_next = np.float64(table.t), np.float64(table.t_next)
  # x = (1-t) x0 + t x1 and v = x1 - x0 turn (c_x, c_v) into parts of (x0, x1).
  of_x0 = table.c_x * (1 - t) - table.c_v
  of_x1 = table.c_x * t + table.c_v
  np.testing.assert_allclose(of_x0, 1 - t_next, atol=3e-7)
  np.testing.assert_allclose(of_x1**2 + table.std**2, t_next**2, atol=5e-7)
  assert table.std[-1] == 0.0


@pytest.mark.parametrize("name", list(LEVELS))
def test_vanishing_noise_is_the_euler_step(name):
  euler = make("ode")
  table = make(name, noise_level=1e-5)
  for field in ("c_x", "c_v", "std"):
    np.testing.assert_allclose(
      getattr(table, field), getattr(euler, field), atol=4e-5
    )


def test_euler_step_of_a_straight_path_lands_on_it():
  x0, noise, _ = latents(3)
  for i in range(STEPS):
    step = pick(make("ode"), i)
    x_t = (1 - step.t) * x0 + step.t * noise
    expected = (1 - step.t_next) * x0 + step.t_next * noise
    actual = steppers.mean(x_t, noise - x0, step)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("index", [0, 1, 5, STEPS - 1])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", ["flow_sde", "dance_sde"])
def test_log_prob_is_the_averaged_normal_density(name, shift, index):
  x, v, noise = latents(1)
  step = pick(make(name, shift), index)
  mean = steppers.mean(x, v, step)
  x_next = np.asarray(mean + step.std * noise)
  expected = scipy.stats.norm.logpdf(
    x_next.astype(np.float64), np.float64(mean), float(step.std)
  ).mean((1, 2, 3))
  actual = steppers.log_prob(x_next, mean, step)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_log_prob_of_cps_drops_the_scale():
  x, v, noise = latents(2)
  step = pick(make("cps"), 4)
  mean = steppers.mean(x, v, step)
  x_next = np.asarray(mean + step.std * noise)
  expected = -np.square(np.float64(x_next) - np.float64(mean)).mean((1, 2, 3))
  actual = steppers.log_prob(x_next, mean, step)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["ode", "cps"])
def test_last_deterministic_step_has_no_density_and_a_finite_gradient(name):
  x, v, x_next = latents(4)
  step = pick(make(name), STEPS - 1)

  def total(v):
    return steppers.log_prob(x_next, steppers.mean(x, v, step), step).sum()

  value, grad = jax.value_and_grad(total)(v)
  assert value == 0.0
  np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("name", list(LEVELS))
def test_log_prob_gradient_by_finite_differences(name):
  x, v, noise = latents(5, rows=2, shape=(3,))
  step = pick(make(name), 3)
  x_next = np.asarray(steppers.mean(x, v, step) + step.std * noise)
  full = LEVELS[name] and name != "cps"

  def numpy_total(v):
    mean, std = reference_step(
      name, times64(3.0), 3, np.float64(x), v, LEVELS[name]
    )
    if full:
      return scipy.stats.norm.logpdf(x_next, mean, std).mean(-1).sum()
    return -np.square(x_next - mean).mean(-1).sum()

  grad = jax.grad(
    lambda v: steppers.log_prob(x_next, steppers.mean(x, v, step), step).sum()
  )(jnp.asarray(v))
  for place in np.ndindex(v.shape):
    bump = np.zeros(v.shape)
    bump[place] = 1e-5
    numeric = (numpy_total(v + bump) - numpy_total(v - bump)) / 2e-5
    np.testing.assert_allclose(grad[place], numeric, rtol=2e-4, atol=1e-5)


def test_window_is_noisy_inside_and_euler_outside():
  noisy = schedule.window_mask(STEPS, 2, 3)
  windowed, full, euler = (
    make("flow_sde", noisy=noisy),
    make("flow_sde"),
    make("ode"),
  )
  for field in ("c_x", "c_v", "std"):
    expected = np.where(noisy, getattr(full, field), getattr(euler, field))
    np.testing.assert_array_equal(getattr(windowed, field), expected)
  assert list(np.flatnonzero(windowed.std > 0)) == [2, 3, 4]


def test_rows_of_different_steps_share_one_call():
  x, v, noise = latents(6)
  table = make("flow_sde")
  index = np.array([0, 4, 9])
  rows = pick(table, index)
  mean = steppers.mean(x, v, rows)
  together = steppers.log_prob(mean + 0.1 * noise, mean, rows)
  for row, i in enumerate(index):
    one = slice(row, row + 1)
    alone = steppers.mean(x[one], v[one], pick(table, int(i)))
    np.testing.assert_allclose(mean[one], alone, atol=1e-6)
    log_p = steppers.log_prob(
      mean[one] + 0.1 * noise[one], mean[one], pick(table, int(i))
    )
    np.testing.assert_allclose(together[one], log_p, rtol=1e-6)


def test_kl_of_two_steps_is_scipys_and_the_mean_log_ratio():
  """KL(N(mu, s^2) || N(nu, s^2)) per element, three ways."""
  x, v, other = latents(7, rows=1, shape=(3,))
  step = pick(make("flow_sde"), 5)
  mean = np.float64(steppers.mean(x, v, step))
  reference = np.float64(steppers.mean(x, v + 0.5 * other, step))
  std = float(step.std)
  closed = step_kl(
    np.float32(mean),
    np.float32(reference),
    step.std,
    step.t - step.t_next,
    step.c_v,
    np.ones(1, bool),
  )
  grid = np.linspace(-12, 12, 200_001)[:, None] * std + mean[0]
  p = scipy.stats.norm.pdf(grid, mean[0], std)
  entropy = scipy.special.rel_entr(
    p, scipy.stats.norm.pdf(grid, reference[0], std)
  )
  integral = np.trapezoid(entropy, grid, axis=0).mean()
  assert closed.value() == pytest.approx(integral, rel=1e-4)
  draws = np.random.default_rng(0).normal(0, 1, (100_000, 3))
  x_next = np.float32(mean + std * draws)
  spread = lambda m: np.broadcast_to(np.float32(m), x_next.shape)
  ratio = np.float64(steppers.log_prob(x_next, spread(mean), step))
  ratio -= steppers.log_prob(x_next, spread(reference), step)
  error = ratio.std() / np.sqrt(len(ratio))
  assert abs(ratio.mean() - integral) < 4 * error


@pytest.mark.parametrize("name", list(LEVELS))
@pytest.mark.parametrize("level", [0.0, -1.0, float("nan"), float("inf")])
def test_a_stochastic_sampler_needs_positive_noise(name, level):
  with pytest.raises(UserError, match="noise_level"):
    make(name, noise_level=level)


@pytest.mark.parametrize("level", [1.2, 1.8])  # FlowCPS for Qwen-Image
@pytest.mark.parametrize("index", [0, 5])
def test_cps_above_level_one_is_the_authors(level, index):
  """Their root of t'^2 - std^2 is positive, where the cosine is not."""
  x, v, _ = latents()
  step = pick(make("cps", noise_level=level), index)
  expected, std = reference_step(
    "cps", times64(3.0), index, np.float64(x), np.float64(v), level
  )
  actual = steppers.mean(x, v, step)
  np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)
  np.testing.assert_allclose(step.std, std, rtol=2e-6)


def test_cps_has_no_noise_left_at_level_two():
  with pytest.raises(UserError, match="less than 2"):
    make("cps", noise_level=2.0)


@pytest.mark.parametrize("steps", [1, 2, 100])
@pytest.mark.parametrize("shift", [0.3, *SHIFTS])
@pytest.mark.parametrize("name", ["ode", *LEVELS])
def test_every_constant_is_finite(name, shift, steps):
  for row in jax.tree.leaves(make(name, shift, steps)):
    assert row.dtype == np.float32 and row.shape == (steps,)
    assert np.isfinite(row).all()
