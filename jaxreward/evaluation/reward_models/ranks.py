"""Rank correlations and the distance of two rewards."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jaxreward.types import ArrayLike


def spearman(a: Float[ArrayLike, "N"], b: Float[ArrayLike, "N"]) -> float:
  """Correlation of ranks, ties by their mean rank; NaN if one is constant."""
  from scipy import stats  # half a second, which other jobs do not wait for

  a, b = _both(a, b)
  return _correlation(stats.rankdata(a), stats.rankdata(b))


def kendall(a: Float[ArrayLike, "N"], b: Float[ArrayLike, "N"]) -> float:
  r"""Kendall's tau-b, (C - D) / sqrt((n - t_a)(n - t_b)) over the n pairs.

  C pairs agree and D disagree; t counts the pairs that are tied. NaN if one of
  the two is constant.
  """
  a, b = _both(a, b)
  first, second = np.triu_indices(a.size, 1)
  signs = [np.sign(x[first] - x[second]) for x in (a, b)]
  size = [float((s != 0).sum()) for s in signs]
  if not all(size):
    return float("nan")
  return float((signs[0] * signs[1]).sum() / np.sqrt(size[0] * size[1]))


def _both(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Those where both are finite."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  valid = np.isfinite(a) & np.isfinite(b)
  return a[valid], b[valid]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return float("nan")
  a, b = a - a.mean(), b - b.mean()
  return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def per_prompt(
  scores: Float[ArrayLike, "Q N"], gold: Float[ArrayLike, "Q N"]
) -> dict[str, np.ndarray]:
  """{"spearman", "kendall"}: of each row's images, float64 [Q]."""
  rows = list(zip(np.asarray(scores), np.asarray(gold), strict=True))
  return {
    name: np.array([fn(a, b) for a, b in rows], np.float64)
    for name, fn in (("spearman", spearman), ("kendall", kendall))
  }


def per_model(
  scores: Float[ArrayLike, "Q N"],
  gold: Float[ArrayLike, "Q N"],
  model: ArrayLike,
) -> dict[str, float]:
  """Rank correlations of the mean scores of the models that drew the images.

  Each prompt's mean is taken off both scores first, so that models may have
  drawn for different prompts.

  Args:
    scores: not finite where failed.
    gold: NaN where unknown.
    model: int [Q, N], who drew an image; -1 where unknown.

  Returns:
    {"spearman", "kendall", "models"}; NaN with fewer than two models.
  """
  scores, gold = np.asarray(scores, np.float64), np.asarray(gold, np.float64)
  model = np.asarray(model)
  valid = np.isfinite(scores) & np.isfinite(gold) & (model >= 0)
  names = np.unique(model[valid])
  centered = [_centered(x, valid) for x in (scores, gold)]
  means = [
    np.array([x[valid & (model == name)].mean() for name in names])
    for x in centered
  ]
  results = {"models": len(names)}
  return results | {
    "spearman": spearman(*means),
    "kendall": kendall(*means),
  }


def _centered(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Less the mean of each row; 0 where masked."""
  count = np.maximum(mask.sum(-1, keepdims=True), 1)
  mean = np.where(mask, x, 0.0).sum(-1, keepdims=True) / count
  return np.where(mask, x - mean, 0.0)


def starc(
  a: Float[ArrayLike, "Q N"],
  b: Float[ArrayLike, "Q N"],
  mask: ArrayLike | None = None,
) -> float:
  """STARC distance of two rewards of one-step decisions, between 0 and 2.

  Skalse et al. 2023, https://arxiv.org/abs/2309.15257: each prompt's mean over
  its images is taken off, which no choice among images depends on; what is left
  is divided by its L2 norm, and the distance is that of the two. It is
  sqrt(2 (1 - rho)) for the correlation rho within prompts. A reward that
  prefers nothing is 0, and 1 from all others.

  Args:
    a: scores; images without a finite one of both are left out.
    b: of the same images.
    mask: bool [Q, N], images that count.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  valid = np.isfinite(a) & np.isfinite(b)
  if mask is not None:
    valid = valid & np.asarray(mask)
  unit = []
  for x in (a, b):
    centered = _centered(x, valid)
    scale = np.abs(np.where(valid, x, 0.0)).max(initial=0.0)
    norm = np.sqrt((centered**2).sum())
    unit.append(centered / norm if norm > 1e-12 * scale else 0 * centered)
  return float(np.sqrt(((unit[0] - unit[1]) ** 2).sum()))
