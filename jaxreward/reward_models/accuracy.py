"""Accuracy of a reward model on preference pairs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from jaxreward.types import ArrayLike


def pair_accuracy(
  scores: Float[ArrayLike, "K 2"], mask: Bool[ArrayLike, "K"] | None = None
) -> tuple[float, int]:
  """Number of correct pairs and of all pairs.

  Args:
    scores: [K, 2], the preferred image first. Equal scores are half correct; a
      pair with a score that is not finite is wrong.
    mask: pairs that count.

  Returns:
    (right, n): accuracy is right / n.
  """
  scores = np.asarray(scores, np.float64)
  keep = np.ones(len(scores), bool) if mask is None else np.asarray(mask)
  scores = scores[keep]
  first, second = scores[:, 0], scores[:, 1]
  valid = np.isfinite(scores).all(1)
  right = np.where(first == second, 0.5, first > second) * valid
  return float(right.sum()), len(scores)
