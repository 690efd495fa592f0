"""Says in one line when trained and held-out reward part ways."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxreward.evaluation.intervals import Values

THRESHOLD = 3.0  # standard errors, on each of the two slopes
FEWEST = 10  # records, below which no slope is believed


class Trend(NamedTuple):
  """Least-squares slope per record and its standard error."""

  slope: float
  error: float
  n: int


def trend(values: Values) -> Trend:
  """Slope of a series over its index, with an error that knows of memory.

  The residuals r of a training curve are correlated, which makes the textbook
  error too small. Their lag-1 correlation rho, when positive, widens it as in
  an AR(1) process:

    error^2 = sum r^2 / (n - 2) / sum (t - mean t)^2 * (1 + rho) / (1 - rho)

  A straight line takes memory out of short residuals, so rho is raised by its
  bias (1 + 4 rho) / n first (Kendall 1954) and capped at 0.9.

  Args:
    values: one per record; None and non-finite entries are skipped.

  Returns:
    Trend(slope, error, n); slope 0 and error infinite below three values.
  """
  y = np.array([math.nan if v is None else v for v in values], np.float64)
  t = np.arange(y.size)[np.isfinite(y)]
  y = y[np.isfinite(y)]
  n = y.size
  if n < 3:
    return Trend(0.0, math.inf, n)
  centred = t - t.mean()
  spread = np.sum(centred**2)
  slope = float(np.sum(centred * y) / spread)
  residual = y - y.mean() - slope * centred
  power = np.sum(residual**2)
  rho = np.sum(residual[1:] * residual[:-1]) / power if power > 0 else 0.0
  rho = float(np.clip(rho + (1 + 4 * rho) / n, 0.0, 0.9))
  widen = (1 + rho) / (1 - rho)
  return Trend(slope, math.sqrt(power / (n - 2) / spread * widen), n)


def divergence_warning(
  history_trained: Values,
  history_heldout: Values,
  window: int = 50,
) -> str | None:
  """A plain warning when the trained reward rises while the held-out falls.

  Both slopes over the last `window` records must be further than three
  standard errors from zero (a little more when records are few), in opposite
  directions. Noise that remembers 60 % of its last value sets it off in less
  than 5 % of windows, also when the trained reward truly rises.

  Args:
    history_trained: one value per record, oldest first; None or NaN where
      nothing was measured.
    history_heldout: the same records of the held-out reward.
    window: how many of the last records to look at.

  Returns:
    One line, or None when there is nothing to say.

  Raises:
    ValueError: when the histories differ in length.
  """
  if len(history_trained) != len(history_heldout):
    raise ValueError(
      f"histories must pair up: {len(history_trained)} trained against "
      f"{len(history_heldout)} held-out records"
    )
  rise = trend(history_trained[-window:])
  fall = trend(history_heldout[-window:])
  if min(rise.n, fall.n) < FEWEST:
    return None
  if not (_beyond(rise, history_trained) and rise.slope > 0):
    return None
  if not (_beyond(fall, history_heldout) and fall.slope < 0):
    return None
  span = min(window, len(history_trained))
  return (
    f"Trained and held-out reward part ways: over the last {span} records the"
    f" trained reward rose by {rise.slope * span:.3g} while the held-out"
    f" reward fell by {-fall.slope * span:.3g}. The policy may be gaming its"
    " reward; an earlier checkpoint or a stronger pull to the reference is"
    " safer."
  )


def _beyond(line: Trend, history: Values) -> bool:
  """Whether a slope clears its error and the rounding of its values."""
  size = max(abs(v) for v in history if v is not None and math.isfinite(v))
  rounding = 1e-6 * size / line.n
  # Student's t in place of the normal, to the first order in 1 / (n - 2).
  freedom = line.n - 2
  errors = THRESHOLD + (THRESHOLD**3 + THRESHOLD) / (4 * freedom)
  return bool(abs(line.slope) > max(errors * line.error, rounding))
