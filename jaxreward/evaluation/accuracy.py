"""Share of right pictures, by kind of prompt and over all."""

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

  With clusters [N] their number is under `clusters`, and the interval is that
  of `intervals.share`; without, it is Wilson's. `accuracy` is NaN when N is 0.
  """
  n = int(strict.size)
  low, high = share_interval(strict, clusters)
  accuracy = float(strict.mean()) if n else math.nan
  row = {"accuracy": accuracy, "n": n, "low": low, "high": high}
  if clusters is not None:
    row["clusters"] = int(np.unique(clusters).size)
  return row


def by_kind(
  strict: Values,
  kind: Values,
  mask: Values | None = None,
  *,
  names: Mapping[int, str] | Sequence[str] | None = None,
  clusters: Values | None = None,
) -> dict[str, dict[str, Any]]:
  """Accuracy of each kind that occurs.

  Args:
    strict: [N], 1 for a right picture, 0 for a wrong one.
    kind: int [N], a number of `names`.
    mask: bool [N], False for padding; None keeps all.
    names: number -> name of the kinds; None names them by number.
    clusters: [N], what samples belong together; None takes all as independent.

  Returns:
    kind name -> {accuracy, n, low, high}, in the order of the kinds; with
    clusters also their number, `clusters`. A kind that has one rests on one
    meaning: its interval says nothing about others.
  """
  strict, kind, keep = _flat(strict, kind, mask)
  strict, kind = strict[keep], kind[keep]
  own = None if clusters is None else np.asarray(clusters)[keep]
  present = sorted({int(k) for k in kind})
  label = (lambda k: names[k]) if names is not None else str
  return {
    label(k): share(strict[kind == k], own if own is None else own[kind == k])
    for k in present
  }


def summarise(
  strict: Values,
  kind: Values,
  mask: Values | None = None,
  *,
  names: Mapping[int, str] | Sequence[str] | None = None,
  clusters: Values | None = None,
) -> dict[str, Any]:
  """Accuracy over samples, over kinds and within kinds.

  A sample whose verdict is not finite failed to be judged: it enters no mean
  and is counted under `failed`.

  Args:
    strict: [N], 1 for a right picture, 0 for a wrong one.
    kind: int [N], a number of `names`.
    mask: bool [N], False for padding; None keeps all.
    names: number -> name of the kinds; None names them by number.
    clusters: [N], what samples belong together, such as the meaning of their
      prompts; None takes all as independent.

  Returns:
    {strict: mean over samples, mean_over_kinds: every kind weighs the same,
    n, failed, interval: [low, high] of `strict`, by resampling clusters within
    each kind where they are given, and single samples in a kind that has one
    cluster, kinds: see `by_kind`}.
  """
  values, kinds, keep = _flat(strict, kind, mask)
  wanted = int(np.sum(np.ones_like(values) if mask is None else mask))
  overall = share(values[keep])
  table = by_kind(values, kinds, keep, names=names, clusters=clusters)
  rates = [row["accuracy"] for row in table.values()]
  interval = overall["low"], overall["high"]
  if clusters is not None:
    interval = clustered_share(
      values[keep], np.asarray(clusters)[keep], strata=kinds[keep]
    )
  return {
    "strict": overall["accuracy"],
    "mean_over_kinds": float(np.mean(rates)) if rates else math.nan,
    "n": overall["n"],
    "failed": wanted - overall["n"],
    "interval": list(interval),
    "kinds": table,
  }


def _flat(strict, kind, mask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(values, kinds, keep), all [N]; keep drops padding and failures."""
  strict = np.asarray(strict, np.float64)
  kind = np.asarray(kind)
  keep = np.ones(strict.shape, bool) if mask is None else np.asarray(mask, bool)
  if not strict.shape == kind.shape == keep.shape or strict.ndim != 1:
    raise ValueError(
      "strict, kind and mask must share one shape [N], got "
      f"{strict.shape}, {kind.shape}, {keep.shape}"
    )
  return strict, kind, keep & np.isfinite(strict)
