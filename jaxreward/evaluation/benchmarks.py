"""Scores of a benchmark: by category, overall, and beside another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxreward.evaluation import intervals

Scores = Float[np.ndarray, "P G"]


def summary(
  scores: Scores, categories: Sequence[str], seed: int = 0
) -> dict[str, Any]:
  """The numbers of one reward.

  "overall" is the mean of the categories' means, each of the same weight, as in
  GenEval's `summary_scores.py`; "images" the mean of all images, "prompts" the mean
  over prompts of their best image, which for right and wrong is GenEval's share of
  prompts with a right image. The interval of "overall" draws prompts within
  categories.

  Args:
    scores: of the images of each prompt; NaN for none.
    categories: of the prompts.
    seed: of the interval.
  """
  kinds = np.array(categories)
  means = {
    name: float(np.nanmean(scores[kinds == name]))
    for name in dict.fromkeys(categories)
    if np.isfinite(scores[kinds == name]).any()
  }
  has_any = np.isfinite(scores).any(1)
  span = difference(np.zeros_like(scores), scores, categories, seed)
  return {
    "overall": span.value, "low": span.low, "high": span.high,
    "images": float(np.nanmean(scores)) if has_any.any() else float("nan"),
    "prompts": float(np.nanmax(scores[has_any], axis=1).mean())
    if has_any.any() else float("nan"),
    "n": int(np.isfinite(scores).sum()),
    "failed": int((~np.isfinite(scores)).sum()),
    "categories": means,
  }  # fmt: skip


def difference(
  first: Scores, second: Scores, categories: Sequence[str], seed: int = 0
) -> intervals.Interval:
  """How much higher the second overall score is, with its paired interval.

  Prompts are paired and drawn within categories; of each, images are averaged.
  Prompts that either side lacks are left out.
  """

  def mean(scores: Scores) -> np.ndarray:
    count = np.isfinite(scores).sum(1)
    total = np.where(np.isfinite(scores), scores, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

  return intervals.paired_bootstrap(
    mean(first), mean(second), strata=categories, seed=seed,
    equal_strata=True,
  )  # fmt: skip
