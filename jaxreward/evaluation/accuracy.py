"""Share of correct images, per prompt category and overall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreward.evaluation.intervals import Values, clustered_share
from jaxreward.evaluation.intervals import share as share_interval


def share(
  strict: np.ndarray, clusters: np.ndarray | None = None
) -> dict[str, Any]:
  """Mean of 0/1 values [N] as {accuracy, n, low, high} at 95 %.

  With clusters [N], `clusters` is their number and the interval that of
  `intervals.share`; otherwise it is Wilson's. `accuracy` is NaN if N is 0.
  """
  n = int(strict.size)
  low, high = share_interval(strict, clusters)
  accuracy = float(strict.mean()) if n else math.nan
  row = {"accuracy": accuracy, "n": n, "low": low, "high": high}
  if clusters is not None:
    row["clusters"] = int(np.unique(clusters).size)
  return row


def by_category(
  strict: Values,
  category: Values,
  mask: Values | None = None,
  *,
  names: Mapping[int, str] | Sequence[str] | None = None,
  clusters: Values | None = None,
) -> dict[str, dict[str, Any]]:
  """Accuracy of each category that occurs.

  Args:
    strict: [N], 1 for a correct image, 0 for a wrong one.
    category: int [N], a number of `names`.
    mask: bool [N], False for padding; None keeps all.
    names: number -> name of the categories; None names them by number.
    clusters: [N], groups of dependent samples; None if all are independent.

  Returns:
    category name -> {accuracy, n, low, high}, in order of the numbers; with
    clusters also their number, `clusters`. With one cluster, the interval
    covers one meaning and says nothing about others.
  """
  strict, category, keep = _flat(strict, category, mask)
  strict, category = strict[keep], category[keep]
  groups = None if clusters is None else np.asarray(clusters)[keep]
  present = sorted({int(k) for k in category})
  label = (lambda k: names[k]) if names is not None else str
  return {
    label(k): share(
      strict[category == k], groups if groups is None else groups[category == k]
    )
    for k in present
  }


def summarise(
  strict: Values,
  category: Values,
  mask: Values | None = None,
  *,
  names: Mapping[int, str] | Sequence[str] | None = None,
  clusters: Values | None = None,
) -> dict[str, Any]:
  """Accuracy over samples, over categories and within categories.

  A sample whose verdict is not finite is excluded from all means and counted
  under `failed`.

  Args:
    strict: [N], 1 for a correct image, 0 for a wrong one.
    category: int [N], a number of `names`.
    mask: bool [N], False for padding; None keeps all.
    names: number -> name of the categories; None names them by number.
    clusters: [N], groups of dependent samples, such as the meaning of their
      prompts; None if all are independent.

  Returns:
    {strict: mean over samples, mean_over_kinds: unweighted mean over
    categories, n, failed, interval: [low, high] of `strict`, with clusters by
    resampling them within each category (single samples in a category with one
    cluster), kinds: see `by_category`}.
  """
  values, categories, keep = _flat(strict, category, mask)
  expected = int(np.sum(np.ones_like(values) if mask is None else mask))
  overall = share(values[keep])
  table = by_category(values, categories, keep, names=names, clusters=clusters)
  rates = [row["accuracy"] for row in table.values()]
  interval = overall["low"], overall["high"]
  if clusters is not None:
    interval = clustered_share(
      values[keep], np.asarray(clusters)[keep], strata=categories[keep]
    )
  return {
    "strict": overall["accuracy"],
    "mean_over_kinds": float(np.mean(rates)) if rates else math.nan,
    "n": overall["n"],
    "failed": expected - overall["n"],
    "interval": list(interval),
    "kinds": table,
  }


def _flat(strict, category, mask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(values, categories, keep), all [N]; keep drops padding and failures."""
  strict = np.asarray(strict, np.float64)
  category = np.asarray(category)
  keep = np.ones(strict.shape, bool) if mask is None else np.asarray(mask, bool)
  if not strict.shape == category.shape == keep.shape or strict.ndim != 1:
    raise ValueError(
      "strict, kind and mask must share one shape [N], got "
      f"{strict.shape}, {category.shape}, {keep.shape}"
    )
  return strict, category, keep & np.isfinite(strict)
