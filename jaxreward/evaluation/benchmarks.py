"""Scores of a benchmark: by category, overall, and beside another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxreward.evaluation import intervals

Scores = Float[np.ndarray, "P G"]


def summary(
  scores: Scores,
  categories: Sequence[str],
  seed: int = 0,
  exists: Bool[np.ndarray, "P G"] | None = None,
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
    exists: whether there is an image, whose missing score is "failed"; None where
      all are there.
  """
  exists = np.ones(scores.shape, bool) if exists is None else exists
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
    "failed": int((exists & ~np.isfinite(scores)).sum()),
    "categories": means,
  }  # fmt: skip


def difference(
  first: Scores,
  second: Float[np.ndarray, "P H"],
  categories: Sequence[str],
  seed: int = 0,
) -> intervals.Interval:
  """How much higher the second overall score is, with its paired interval.

  Prompts are paired and drawn within categories, all images of each together.
  Prompts that either side lacks are left out.
  """
  return intervals.equal_strata_bootstrap(
    first, second, strata=categories, seed=seed
  )
