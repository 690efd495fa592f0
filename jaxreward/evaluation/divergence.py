"""Detects when trained and held-out reward diverge."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxreward.evaluation.intervals import Values

THRESHOLD = 3.0  # standard errors, on each of the two slopes
FEWEST = 10  # records that a slope needs


class Trend(NamedTuple):
  """Least-squares slope per record and its standard error."""

  slope: float
  error: float
  n: int


def trend(values: Values) -> Trend:
  """Slope of a series over its index, its error adjusted for autocorrelation.

  The residuals r of a training curve are correlated, so the textbook error is
  too small. A positive lag-1 autocorrelation rho widens it as in an AR(1)
  process:

    error^2 = sum r^2 / (n - 2) / sum (t - mean t)^2 * (1 + rho) / (1 - rho)

  A fitted line lowers rho of short series, so rho is first corrected by its
  bias (1 + 4 rho) / n (Kendall 1954) and capped at 0.9.

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
  """A warning when the trained reward rises while the held-out one falls.

  Both slopes over the last `window` records must be more than three standard
  errors from zero (slightly more for few records), in opposite directions. With
  AR(1) noise of coefficient 0.6 the false alarm rate is below 5 % of windows,
  even if the trained reward truly rises.

  Args:
    history_trained: one value per record, oldest first; None or NaN if not
      measured.
    history_heldout: the same records of the held-out reward.
    window: number of last records to consider.

  Returns:
    One line, or None.

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
  """Whether a slope exceeds its error and rounding."""
  size = max(abs(v) for v in history if v is not None and math.isfinite(v))
  rounding = 1e-6 * size / line.n
  # Student's t instead of the normal, to first order in 1 / (n - 2).
  freedom = line.n - 2
  errors = THRESHOLD + (THRESHOLD**3 + THRESHOLD) / (4 * freedom)
  return bool(abs(line.slope) > max(errors * line.error, rounding))
