"""Two sets of features compared: how near, how good and how varied one is.

In float64 on the host.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_AT_ONCE = 1 << 24  # distances in memory

Real = Float[np.ndarray, "N E"]
Fake = Float[np.ndarray, "M E"]


def frechet_distance(real: Real, fake: Fake) -> float:
  """|m_r - m_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^1/2) of two sets.

  FID on Inception's features (Heusel et al. 2017,
  https://arxiv.org/abs/1706.08500), CLIP-FID on CLIP's (Kynkäänniemi et al. 2022,
  https://arxiv.org/abs/2203.06026). Covariances are over n - 1. The trace of the
  root is that of (S_r^1/2 S_g S_r^1/2)^1/2, which is symmetric.

  Args:
    real: two or more features.
    fake: the same.
  """
  real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
  first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
  values, vectors = np.linalg.eigh(first)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  inner = np.linalg.eigvalsh(root @ second @ root)
  trace = np.trace(first) + np.trace(second)
  between = np.square(real.mean(0) - fake.mean(0)).sum()
  return float(between + trace - 2 * np.sqrt(np.maximum(inner, 0)).sum())


def _distances(a: Real, b: Fake):
  """(rows of a, their distances to b [n, M]), some at a time."""
  size = max(_AT_ONCE // max(len(b), 1), 1)
  square = np.square(b).sum(1)
  for start in range(0, len(a), size):
    part = a[start : start + size]
    gap = np.square(part).sum(1)[:, None] + square - 2 * part @ b.T
    yield slice(start, start + size), np.sqrt(np.maximum(gap, 0))


def _radii(x: Real, k: int) -> np.ndarray:
  """Distance of each to its k-th neighbour in its own set."""
  radii = np.zeros(len(x))
  for rows, gap in _distances(x, x):
    gap[np.arange(len(gap)), np.arange(rows.start, rows.start + len(gap))] = 0
    radii[rows] = np.partition(gap, k, axis=1)[:, k]
  return radii


def coverage_metrics(real: Real, fake: Fake, k: int = 5) -> dict[str, float]:
  """Precision, recall, density and coverage.

  precision: share of fake features within the k-th neighbour's distance of a real
  one; recall: the same of real among fake (Kynkäänniemi et al. 2019,
  https://arxiv.org/abs/1904.06991). density: how many such balls hold a fake feature,
  over k; coverage: share of real features whose ball holds a fake one (Naeem et al.
  2020, https://arxiv.org/abs/2002.09797, whose code this equals).

  Args:
    real: more than k features.
    fake: the same.
    k: neighbours; 5 and 3 are published.
  """
  real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
  of_real, of_fake = _radii(real, k), _radii(fake, k)
  balls = np.zeros(len(fake))
  recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
  for rows, gap in _distances(real, fake):
    inside = gap < of_real[rows, None]
    balls += inside.sum(0)
    covered[rows] = gap.min(1) < of_real[rows]
    recalled[rows] = (gap < of_fake).any(1)
  return {
    "precision": float((balls > 0).mean()),
    "recall": float(recalled.mean()),
    "density": float(balls.mean() / k),
    "coverage": float(covered.mean()),
  }
