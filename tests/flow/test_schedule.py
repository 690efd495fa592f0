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
  with pytest.raises(UserError, match=r"rollout\.(num_steps|shift)="):
    schedule.timesteps(steps, shift)


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
