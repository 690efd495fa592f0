"""Samplers keep the marginals where the velocity is not affine: two hills."""

import jax
import jax.numpy as jnp
import mixture_target as mixture
import numpy as np
import pytest
from scipy import interpolate, stats

from jaxreward import rng
from jaxreward.flow import path, rollout, sampler, schedule, steppers
from tests import tiny

GRID = np.linspace(-5, 5, 801)
SPAN = GRID[1] - GRID[0]


def propagate(table, velocity=mixture.velocity, p=None):
  """The density on the grid after the last step, from p or N(0, 1), in float64.

  A step's mean carries the cumulative along, and its noise is a factor on the
  Fourier transform: nothing is drawn.
  """
  p = stats.norm.pdf(GRID) if p is None else p
  wave = 2 * np.pi * np.fft.rfftfreq(len(GRID), SPAN)
  for t, c_x, c_v, std in zip(
    *(np.float64(x) for x in (table.t, table.c_x, table.c_v, table.std)),
    strict=True,
  ):
    mean = c_x * GRID + c_v * velocity(GRID, t)
    mean = mean + 1e-9 * GRID  # where nothing is left of x
    assert (np.diff(mean) > 0).all()
    total = (np.cumsum(p) - p / 2) * SPAN
    cumulative = interpolate.PchipInterpolator(mean, total, extrapolate=False)
    p = np.nan_to_num(cumulative.derivative()(GRID))
    transform = np.fft.rfft(p) * np.exp(-0.5 * (wave * std) ** 2)
    p = np.fft.irfft(transform, len(GRID))
  return p


def gap(p, t=0.0):
  """Largest distance of the cumulative from the mixture's."""
  ends = GRID + SPAN / 2
  return np.abs(np.cumsum(p) * SPAN - mixture.cumulative(ends, t)).max()


def test_the_velocity_is_the_posterior_mean():
  """By quadrature over x_0, and as the gradient's own identity."""
  t, x = 0.4, np.array([-1.5, -0.2, 0.3, 2.0])
  x0 = np.linspace(-4, 4, 20001)
  prior = mixture.density(x0, 0.0)
  likely = stats.norm.pdf(x[:, None], (1 - t) * x0, t) * prior
  mean = (likely * x0).sum(1) / likely.sum(1)
  np.testing.assert_allclose(mixture.velocity(x, t), (x - mean) / t, atol=1e-9)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("name", "kwargs", "falls"),
  [
    ("ode", {}, True),
    ("dance_sde", {"noise_level": 0.7}, True),
    ("linear_sde", {}, True),
    ("flow_sde", {"noise_level": 0.7}, False),
    ("precise_sde", {"noise_level": 0.7}, False),
  ],
)
def test_every_step_keeps_both_hills(name, kwargs, falls):
  """Shares and widths of the hills, closer with more steps.

  Flow-SDE's first steps err by their noise, which more steps shrink slowly, see
  `test_marginals`.
  """
  gaps = []
  for count in (25, 100):
    times = schedule.timesteps(count, 1.0)
    gaps.append(gap(propagate(steppers.REGISTRY[name](times, **kwargs))))
  assert gaps[1] < 0.01, gaps
  assert not falls or gaps[1] < 0.5 * gaps[0], gaps


NOISY = {
  "flow_sde": {"noise_level": 0.7},
  "dance_sde": {"noise_level": 0.7},
  "linear_sde": {},
  "precise_sde": {"noise_level": 0.7},
}


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NOISY)
def test_noise_in_a_window_keeps_both_hills(name):
  """Of the first steps, of the middle, or of the last as B2-DiffuRL's grows."""
  times = schedule.timesteps(100, 1.0)
  for first, size in ((0, 20), (40, 20), (60, 39)):
    noisy = schedule.window_mask(100, first, size)
    table = steppers.REGISTRY[name](times, noisy, **NOISY[name])
    assert gap(propagate(table)) < 0.01


@pytest.mark.parametrize("name", ["ode", *NOISY])
def test_a_partial_chain_from_noised_samples_keeps_both_hills(name):
  """The last steps alone, from data noised to their first time."""
  times = schedule.timesteps(100, 1.0)
  table = steppers.REGISTRY[name](times, **NOISY.get(name, {}))
  for first in (30, 70):
    rest = jax.tree.map(lambda x, first=first: x[first:], table)
    noised = mixture.density(GRID, float(times[first]))
    assert gap(propagate(rest, p=noised)) < 0.01


def test_cps_keeps_both_hills_as_its_noise_vanishes():
  """Per step its noise does not shrink: the gap at published levels stays.

  Old noise is replaced in full steps of Langevin dynamics, however many there are,
  and hills become too narrow.
  """
  gaps = lambda level: [
    gap(propagate(steppers.cps(schedule.timesteps(n), noise_level=level)))
    for n in (25, 100)
  ]
  coarse, fine = gaps(0.1)
  assert fine < 0.01 and fine < 0.5 * coarse
  coarse, fine = gaps(0.8)
  assert 0.05 < fine < 0.15 and abs(fine - coarse) < 0.02


def test_a_tree_of_samples_has_the_marginal_at_every_leaf():
  """Siblings share noise up to their fork; each leaf alone is a fair sample."""
  policy, prompts, group = mixture.policy(), 1500, 4
  layout = rollout.make_layout(prompts, group, prompts * group)
  table = steppers.dance_sde(schedule.timesteps(24), noise_level=1.0)
  tree = sampler.Sampler(
    policy, table, layout, share=sampler.Share((4, 2), (4, 14))
  )
  draw = jax.jit(
    lambda key: tree.sample(
      {}, key, jnp.zeros((prompts, 1), jnp.int32),
      jnp.arange(prompts, dtype=jnp.uint32),
    ).latents[-1]
  )  # fmt: skip
  leaves = np.float64(draw(jax.random.key(0))).reshape(prompts, group)
  for leaf in leaves.T:
    order = mixture.cumulative(np.sort(leaf), 0.0)
    rank = (np.arange(prompts) + 0.5) / prompts
    assert np.abs(order - rank).max() < 1.63 / prompts**0.5 + 0.01
  apart = lambda a, b: np.square(leaves[:, a] - leaves[:, b]).mean()
  near, far = apart(0, 1) + apart(2, 3), apart(0, 2) + apart(1, 3)
  assert 0 < near < 0.7 * far < 0.7 * 4 * leaves.var()


def test_noise_that_is_missing_from_the_drift_is_seen():
  """The score's part left out, both hills become too wide."""
  times = schedule.timesteps(100, 1.0)
  table = steppers.dance_sde(times, noise_level=0.7)
  plain = steppers.ode(times)
  wrong = table.replace(c_x=plain.c_x, c_v=plain.c_v)
  assert gap(propagate(table)) < 0.02 < 0.04 < gap(propagate(wrong))


def test_renoising_what_a_consistency_model_names_is_exact_in_any_steps():
  """x0_hat is the end of the ODE: its law is the mixture, after each step."""

  def end_of(x, t):
    order = np.clip(mixture.cumulative(x, t), 1e-12, 1 - 1e-12)
    return np.interp(order, mixture.cumulative(GRID, 0.0), GRID)

  named = lambda x, t: (x - end_of(x, t)) / t
  for count in (1, 2, 4):
    table = steppers.renoise(schedule.timesteps(count, 2.0))
    assert gap(propagate(table, named)) < 0.01


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("name", "order", "least"),
  [("ode", 1, 0.8), ("heun", 2, 1.6), ("unipc", 2, 0.6), ("dpmpp_2m", 2, 0.6)],
)
def test_solvers_carry_quantiles_to_quantiles(name, order, least):
  """The exact flow keeps the order of samples, so it is known on the mixture.

  The last step of the multistep solvers is of first order.
  """
  policy, count = mixture.policy(), 64
  keys = rng.sample_keys(
    rng.stream_key(0, "rollout"), np.zeros(count, np.uint32), np.arange(count)
  )
  cond = policy.encode({}, np.zeros((count, 1), np.int32))
  fine = np.linspace(-4, 4, 40001)
  errors = []
  for steps in (32, 64):
    table = steppers.REGISTRY[name](schedule.timesteps(steps, 1.0))
    draw = jax.jit(
      lambda keys, table=table: (
        tiny.sample_rows(
          policy, {}, keys, cond, None, table, is_recorded=True
        ).latents
      )
    )
    first, last = np.float64(draw(keys))[[0, -1]].reshape(2, -1)
    exact = np.interp(
      stats.norm.cdf(first), mixture.cumulative(fine, 0.0), fine
    )
    errors.append(np.abs(last - exact).mean())
  assert errors[1] < {1: 0.03, 2: 0.006}[order], errors
  assert np.log2(errors[0] / errors[1]) > least, errors


def test_the_paths_marginal_is_the_mixtures():
  """Samples of the data, noised by the path, have the density used above."""
  draws = np.random.default_rng(0)
  hill = draws.choice(2, 200_000, p=mixture.WEIGHTS)
  x0 = mixture.MEANS[hill] + mixture.STDS[hill] * draws.normal(size=hill.size)
  eps = draws.normal(size=hill.size)
  t = np.full(hill.size, 0.35, np.float32)
  x_t = np.sort(np.asarray(path.interpolate(x0, eps, t), np.float64))
  empirical = np.arange(1, x_t.size + 1) / x_t.size
  assert np.abs(empirical - mixture.cumulative(x_t, 0.35)).max() < 0.005
