"""Calibration of a reward model's probabilities.

All functions take d [K], the score of the preferred image minus that of the
other; the model's probability of the correct label is sigmoid(d / T).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxreward.types import ArrayLike


class Reliability(NamedTuple):
  """Bins of equal width between confidence 1/2 and 1, float64 [N].

  Attributes:
    count: pairs in the bin.
    confidence: mean confidence; NaN for an empty bin.
    accuracy: share of correct pairs; NaN for an empty bin.
  """

  count: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(x / 2))


def fit_temperature(
  d: Float[ArrayLike, "K"], low: float = 1e-3, high: float = 1e3
) -> float:
  """T in [low, high] with the smallest mean of -log sigmoid(d / T).

  The loss is convex in 1 / T; its derivative is bisected. If every pair is
  correct the best T is 0, and `low` is returned (Guo et al., 2017).

  Raises:
    ValueError: no finite d.
  """
  d = np.asarray(d, np.float64)
  d = d[np.isfinite(d)]
  if not d.size:
    raise ValueError("a temperature needs at least one finite difference")
  left, right = 1 / high, 1 / low
  slope = lambda b: -(d * _sigmoid(-b * d)).mean()
  if slope(right) <= 0:
    return low
  if slope(left) >= 0:
    return high
  for _ in range(200):
    middle = np.sqrt(left * right)
    left, right = (middle, right) if slope(middle) < 0 else (left, middle)
  return float(1 / np.sqrt(left * right))


def reliability(
  d: Float[ArrayLike, "K"], *, temperature: float = 1.0, bins: int = 10
) -> Reliability:
  """Confidence against accuracy; d = 0 is half correct."""
  d = np.asarray(d, np.float64)
  d = d[np.isfinite(d)]
  confidence = _sigmoid(np.abs(d) / temperature)
  right = np.where(d == 0, 0.5, d > 0)
  index = np.minimum((2 * (confidence - 0.5) * bins).astype(int), bins - 1)
  count = np.bincount(index, minlength=bins).astype(np.float64)
  with np.errstate(invalid="ignore"):
    mean = lambda x: np.bincount(index, weights=x, minlength=bins) / count
    return Reliability(count, mean(confidence), mean(right))


def expected_calibration_error(
  d: Float[ArrayLike, "K"], *, temperature: float = 1.0, bins: int = 10
) -> float:
  """Mean over pairs of |confidence - accuracy| of their bin."""
  table = reliability(d, temperature=temperature, bins=bins)
  gap = np.abs(table.confidence - table.accuracy)
  total = table.count.sum()
  if not total:
    return float("nan")
  return float(np.nansum(table.count * gap) / total)
