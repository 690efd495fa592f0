"""Sampling times and windows."""

import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.flow import schedule


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 5.0])
@pytest.mark.parametrize("steps", [1, 10, 37])
def test_times_run_from_noise_to_data_with_odds_scaled_by_the_shift(
  shift, steps
):
  """A shift multiplies the odds t / (1 - t) of a uniform grid."""
  times = schedule.timesteps(steps, shift)
  assert times.dtype == np.float32 and times.shape == (steps + 1,)
  assert times[0] == 1.0 and times[-1] == 0.0
  assert (np.diff(times) < 0).all()
  inner = np.float64(times[1:-1])
  uniform = 1 - np.arange(1, steps) / steps
  odds = inner / (1 - inner)
  np.testing.assert_allclose(odds, shift * uniform / (1 - uniform), rtol=1e-5)


def test_no_shift_is_the_uniform_grid():
  np.testing.assert_allclose(
    schedule.timesteps(4), [1, 0.75, 0.5, 0.25, 0], atol=1e-7
  )


@pytest.mark.parametrize(
  ("steps", "shift"), [(0, 1.0), (-3, 1.0), (4, 0.0), (4, -1.0), (4, np.nan)]
)
def test_impossible_schedules_are_refused(steps, shift):
  with pytest.raises(UserError, match=r"at least 1 are|must be positive"):
    schedule.timesteps(steps, shift)


def test_unknown_grids_and_a_terminal_of_one_step_are_refused():
  with pytest.raises(UserError, match='did you mean "uniform"'):
    schedule.timesteps(4, grid="unifrom")
  with pytest.raises(UserError, match="at least 2 are needed before a termin"):
    schedule.timesteps(1, terminal=0.02)


def test_a_shift_beyond_float32_is_refused():
  with pytest.raises(UserError, match="no times that differ"):
    schedule.timesteps(8, 1e9)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"base_tokens": 4096}, "base_tokens=4096 is not less than"),
    ({"max_shift": 1e3}, "base_shift=0.5 and max_shift=1000.0 give"),
    ({"max_shift": float("nan")}, "max_shift=nan"),
    ({"terminal": 1.0}, r"rollout\.schedule\.terminal=1.0"),
    ({"terminal": -0.1}, r"rollout\.schedule\.terminal=-0.1"),
  ],
)
def test_dynamic_schedules_that_make_no_sense_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    schedule.dynamic(1.0, (64, 64, 16), **options)


def test_a_dynamic_shift_multiplies_that_of_the_config():
  """Shifts multiply odds, so that they multiply each other."""
  once = schedule.dynamic(1.0, (64, 64, 16)).times(9)
  twice = schedule.dynamic(2.0, (64, 64, 16)).times(9)
  odds = lambda t: np.float64(t[1:-1]) / (1 - np.float64(t[1:-1]))
  np.testing.assert_allclose(odds(twice), 2 * odds(once), rtol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.7])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_the_trained_grid_is_that_of_diffusers(steps, shift):
  """As the pipeline of SD3 asks for its times."""
  diffusers = pytest.importorskip("diffusers")
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
  scheduler.set_timesteps(steps)
  times = schedule.timesteps(steps, shift, grid="trained")
  np.testing.assert_allclose(times, scheduler.sigmas.numpy(), atol=3e-7)


@pytest.mark.parity
@pytest.mark.parametrize(
  ("options", "terminal"),
  [
    (dict(base_shift=0.5, max_shift=1.15, max_tokens=4096), 0.0),  # FLUX
    (dict(base_shift=0.5, max_shift=0.9, max_tokens=8192), 0.02),  # Qwen-Image
  ],
)
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
@pytest.mark.parametrize("steps", [2, 28])
def test_dynamic_shifts_are_those_of_diffusers(
  steps, tokens, options, terminal
):
  diffusers = pytest.importorskip("diffusers")
  from diffusers.pipelines.flux import pipeline_flux

  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
    use_dynamic_shifting=True, shift_terminal=terminal or None
  )
  mu = pipeline_flux.calculate_shift(
    tokens,
    256,
    options["max_tokens"],
    options["base_shift"],
    options["max_shift"],
  )
  grid = np.linspace(1.0, 1 / steps, steps)
  scheduler.set_timesteps(sigmas=grid, mu=mu)
  shift = schedule.dynamic_shift(tokens, **options)
  assert shift == pytest.approx(np.exp(mu), rel=1e-12)
  times = schedule.timesteps(steps, shift, terminal=terminal)
  np.testing.assert_allclose(times, scheduler.sigmas.numpy(), atol=3e-7)


@pytest.mark.parity
@pytest.mark.parametrize("tokens", [256, 4096, 4301])
def test_shifts_of_flux2_are_those_of_its_pipeline(tokens):
  pytest.importorskip("diffusers")
  from diffusers.pipelines.flux2 import pipeline_flux2_klein

  for steps in (4, 28, 200):
    mu = pipeline_flux2_klein.compute_empirical_mu(tokens, steps)
    shift = schedule.flux2(2.0, (tokens, 1, 128)).shift_of(steps)
    assert shift == pytest.approx(2 * np.exp(mu), rel=1e-9)


def test_window_marks_its_steps():
  assert list(schedule.window_mask(5, 1, 2)) == [
    False,
    True,
    True,
    False,
    False,
  ]
  assert schedule.window_mask(5, 0, 5).all()


@pytest.mark.parametrize(("start", "size"), [(-1, 2), (0, 0), (4, 2), (0, 6)])
def test_a_window_outside_the_schedule_is_refused(start, size):
  with pytest.raises(UserError, match="does not fit"):
    schedule.window_mask(5, start, size)
