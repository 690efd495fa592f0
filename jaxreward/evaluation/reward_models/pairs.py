"""Accuracy on pairs with ties, on lists, and between sets of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from jaxreward.evaluation.reward_models import ranks
from jaxreward.types import ArrayLike


class Pairs(NamedTuple):
  """Labeled pairs of rows of images.

  Attributes:
    row: int [K].
    columns: int [K, 2], of the row's images.
    answer: int [K]: 1 if the first is preferred, -1 if the second, 0 for a tie.
  """

  row: np.ndarray
  columns: np.ndarray
  answer: np.ndarray


def labeled(prob: Float[ArrayLike, "Q N N"]) -> Pairs:
  """Every pair with a label, once.

  Args:
    prob: that the row's image is preferred to the column's; NaN where unlabeled.
  """
  prob = np.asarray(prob, np.float64)
  upper = np.triu(np.ones(prob.shape[-2:], bool), 1)
  row, first, second = np.nonzero(np.isfinite(prob) & upper)
  answer = np.sign(prob[row, first, second] - 0.5).astype(int)
  return Pairs(row, np.stack([first, second], -1), answer)


def differences(
  scores: Float[ArrayLike, "Q N"], pairs: Pairs
) -> Float[np.ndarray, "K"]:
  """Score of the first image of each pair less that of the second."""
  values = np.asarray(scores, np.float64)[pairs.row[:, None], pairs.columns]
  return values[:, 0] - values[:, 1]


def right(
  d: Float[ArrayLike, "K"], answer: ArrayLike, threshold: float = 0.0
) -> Float[np.ndarray, "K"]:
  """1 for each pair that is judged as labeled, else 0.

  Args:
    d: differences; one that is not finite is wrong.
    answer: see `Pairs`.
    threshold: |d| up to it is judged a tie.
  """
  d = np.asarray(d, np.float64)
  judged = np.where(np.abs(d) <= threshold, 0, np.sign(d))
  return ((judged == np.asarray(answer)) & np.isfinite(d)).astype(np.float64)


def tie_threshold(d: Float[ArrayLike, "K"], answer: ArrayLike) -> float:
  """The threshold with the highest accuracy of `right`, the smallest if several.

  Searched exactly over all distinct |d| (Deutsch et al. 2023,
  https://arxiv.org/abs/2305.14324); 0 where equal scores alone should be ties.
  """
  d, answer = np.asarray(d, np.float64), np.asarray(answer)
  valid = np.isfinite(d)
  d, answer = d[valid], answer[valid]
  if not d.size:
    return 0.0
  order = np.argsort(np.abs(d), kind="stable")
  size = np.abs(d)[order]
  gain = (answer[order] == 0) - (np.sign(d[order]) == answer[order]).astype(int)
  ends = np.flatnonzero(np.append(np.diff(size) > 0, True))
  total = np.cumsum(gain)[ends]
  best = int(np.argmax(total))
  return float(size[ends[best]]) if total[best] > 0 else 0.0


def accuracy_with_ties(
  d: Float[ArrayLike, "K"], answer: ArrayLike, clusters: ArrayLike
) -> Float[np.ndarray, "K"]:
  """`right` of three answers, each half at the threshold of the other half.

  Args:
    d: differences.
    answer: see `Pairs`.
    clusters: int [K]; all pairs of a cluster, such as a prompt, are in one half.
  """
  d, answer = np.asarray(d, np.float64), np.asarray(answer)
  index = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
  half = index % 2 == 1
  results = np.zeros(d.shape)
  for side in (half, ~half):
    threshold = tie_threshold(d[~side], answer[~side])
    results[side] = right(d[side], answer[side], threshold)
  return results


def best_of_n_regret(
  scores: Float[ArrayLike, "N"], gold: Float[ArrayLike, "N"], n: int
) -> float:
  """What the best of n by the score lacks of the best of n by the gold score.

  The mean over all subsets of n images, exactly, as a share of what the gold
  score itself gains over a random image: 0 for a perfect score, 1 for one that
  chooses at random, more for one that chooses worse. Equal scores are chosen
  from at random.

  Args:
    scores: of N images of one prompt; not finite where failed.
    gold: of the same; NaN where unknown.
    n: size of a subset.

  Returns:
    NaN with fewer than n images, or where all are equally good.
  """
  scores, gold = np.asarray(scores, np.float64), np.asarray(gold, np.float64)
  valid = np.isfinite(scores) & np.isfinite(gold)
  scores, gold = scores[valid], gold[valid]
  if n < 2 or scores.size < n:
    return float("nan")
  best = chosen_mean(gold, gold, n)
  gain = best - gold.mean()
  if gain <= 1e-12 * max(1.0, np.abs(gold).max()):
    return float("nan")
  return float((best - chosen_mean(scores, gold, n)) / gain)


def chosen_mean(
  scores: Float[np.ndarray, "N"], gold: Float[np.ndarray, "N"], n: int
) -> float:
  """Mean gold of the highest score over all subsets of n, from order statistics.

  The k-th smallest of N scores is the highest in C(k - 1, n - 1) of the C(N, n)
  subsets; images of equal scores share theirs equally.
  """
  count = scores.size
  weight = special.comb(np.arange(count), n - 1) / special.comb(count, n)
  values, group = np.unique(scores, return_inverse=True)
  group = group.reshape(-1)
  size = np.bincount(group, minlength=values.size)
  total = np.bincount(np.sort(group), weights=weight, minlength=values.size)
  return float(((total / size)[group] * gold).sum())


def picked(
  scores: Float[ArrayLike, "Q N"], is_right: Bool[ArrayLike, "Q N"]
) -> Float[np.ndarray, "Q"]:
  """Whether the highest score of a row is right; a share where several are.

  With one right candidate of four, chance is 1/4 (RewardBench 2,
  https://arxiv.org/abs/2506.01937). A score that is not finite is never the
  highest; a row without a finite one is wrong.
  """
  scores = np.asarray(scores, np.float64)
  scores = np.where(np.isfinite(scores), scores, -np.inf)
  top = (scores == scores.max(-1, keepdims=True)) & np.isfinite(scores)
  count = np.maximum(top.sum(-1), 1)
  return (top & np.asarray(is_right)).sum(-1) / count


def one_of_four(
  prob: Float[ArrayLike, "Q N N"], generator: np.random.Generator, n: int = 4
) -> tuple[np.ndarray, np.ndarray]:
  """Rows with one image that is preferred to n - 1 others.

  For each row that has one, an image that beats at least n - 1 others, and so
  many of these at random.

  Args:
    prob: see `labeled`.
    generator: of the choice.
    n: candidates.

  Returns:
    (row [K], columns [K, n], the right one first).
  """
  beats = np.asarray(prob, np.float64) > 0.5
  rows, columns = [], []
  for row, table in enumerate(beats):
    able = np.flatnonzero(table.sum(1) >= n - 1)
    if able.size:
      first = int(generator.choice(able))
      others = generator.choice(np.flatnonzero(table[first]), n - 1, False)
      rows.append(row)
      columns.append([first, *others])
  return np.array(rows, int), np.array(columns, int).reshape(-1, n)


def ties_score(
  right_scores: Sequence[ArrayLike],
  wrong_scores: Sequence[ArrayLike],
  reference_gap: Float[ArrayLike, "Q"] | None = None,
) -> float:
  """The ties score of RewardBench 2, https://arxiv.org/abs/2506.01937.

  Right answers have to beat every wrong one, and by more than they differ among
  themselves. Invariant to r -> a r + b for a > 0. A spread of zero counts as the
  smallest positive number, so that the last term is 0.01 at most.

  Args:
    right_scores: per prompt, of its right answers, two or more.
    wrong_scores: per prompt.
    reference_gap: per prompt, right less best wrong score of a prompt with a
      single right answer; None takes the gap of the prompt itself.
  """
  lists = [
    [np.asarray(x, float) for x in y] for y in (right_scores, wrong_scores)
  ]
  spread = np.array([x.max() - x.min() for x in lists[0]])
  gap = np.array([a.min() - b.max() for a, b in zip(*lists, strict=True)])
  reference = gap if reference_gap is None else np.asarray(reference_gap, float)
  least = np.minimum(reference, gap)
  size = np.maximum(spread, np.finfo(float).tiny)
  with np.errstate(over="ignore"):
    margin = np.tanh(least / size - 1)
  terms = (gap > 0, reference > 0, gap > spread, least > spread, margin)
  weights = (0.30, 0.30, 0.20, 0.20, 0.01)
  return float(sum(w * t.mean() for w, t in zip(weights, terms, strict=True)))


def ties_of(
  scores: Float[np.ndarray, "Q N"], gold: Float[np.ndarray, "Q N"]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """(right, wrong) scores of the rows with several best images and a worse one.

  Right are those of the highest gold score.
  """
  right_scores, wrong_scores = [], []
  for value, best in zip(scores, gold, strict=True):
    valid = np.isfinite(value) & np.isfinite(best)
    value, best = value[valid], best[valid]
    top = best == best.max(initial=-np.inf)
    if top.sum() > 1 and not top.all():
      right_scores.append(value[top])
      wrong_scores.append(value[~top])
  return right_scores, wrong_scores


def shift_gap(
  inside: dict[str, float], outside: dict[str, float]
) -> dict[str, float]:
  """Accuracy in distribution less that out of it, by reward.

  Lin et al. 2024, https://arxiv.org/abs/2409.03650, compare the reward that a
  policy trained on preferences implies with an explicit one.
  """
  return {name: inside[name] - outside[name] for name in inside}


def asymmetry(
  assessment: dict[str, float], optimized: dict[str, float]
) -> dict[str, Any]:
  """How far the best assessor is from the best objective.

  1 less the rank correlation of what rewards know of labels with the quality
  that a policy reaches when they are optimized (Zhang et al. 2025,
  https://arxiv.org/abs/2509.20878; unverified against their code).

  Args:
    assessment: reward -> agreement with labels.
    optimized: reward -> held-out quality of the policy trained on it.
  """
  names = sorted(set(assessment) & set(optimized))
  a, b = ([x[n] for n in names] for x in (assessment, optimized))
  correlation = ranks.spearman(np.array(a), np.array(b))
  return {"rewards": names, "asymmetry": 1 - correlation}
