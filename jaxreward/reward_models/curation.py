"""Curation of preferences: new labels for pairs, computed once before training.

A method is a function of arrays that it names as positional arguments, over K
labeled pairs of images, with options by keyword:

  label [K]          P(the first image is preferred), as labeled
  margins [K, M]     score of the first less the second, by M proxy models, none
                     of which was fitted to a pair of the same prompt
  scores [K, 2]      mean scores of both images by the proxies
  features [K, D]    features of the first image less those of the second
  embeddings [K, E]  features of the prompt
  prompt [K]         number of the prompt
  sizes [K, 2]       kilobytes of both images as JPEG

It returns new labels [K] in [0, 1]; NaN drops a pair. The proxies are linear
Bradley-Terry models on features of the frozen backbone (`cross_margins`), where
the papers train whole models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxreward.errors import UserError

Labels = Float[np.ndarray, "K"]
OFFERS = (
  "label", "margins", "scores", "features", "embeddings", "prompt", "sizes",
)  # fmt: skip
_NEWTON = 25  # steps at most
_MOST = 2048  # pairs whose nearest neighbours are looked for at once


def _require(name: str, value: float, low: float, high: float) -> None:
  if not low <= value <= high:
    raise UserError(f"{name}={value:g}: it must lie in [{low:g}, {high:g}]")


def _logistic(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(x / 2))


def fit(
  features: Float[np.ndarray, "K D"],
  label: Labels,
  weight: Labels | None = None,
  *,
  ridge: float = 1e-2,
) -> Float[np.ndarray, "D"]:
  """The linear Bradley-Terry model, by Newton's method.

  Minimizes the weighted mean of -p log s(d) - (1 - p) log s(-d), d = features w,
  plus ridge |w|^2 / 2.

  Args:
    features: differences.
    label: p.
    weight: of the pairs; equal if None.
    ridge: strength of the penalty.
  """
  x = np.asarray(features, np.float64)
  weight = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
  weight = weight / max(float(weight.sum()), 1e-12)
  w = np.zeros(x.shape[1])
  for _ in range(_NEWTON):
    p = _logistic(x @ w)
    gradient = x.T @ (weight * (p - label)) + ridge * w
    curvature = (x * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x
    step = np.linalg.solve(curvature + ridge * np.eye(len(w)), gradient)
    w = w - step * min(1.0, 10.0 / max(float(np.abs(step).max()), 1e-12))
    if np.abs(gradient).max() < 1e-10:
      break
  return w


def _half(prompt: np.ndarray, seed: int | list[int]) -> np.ndarray:
  """bool [K]: the pairs of a random half of the prompts."""
  prompts, index = np.unique(prompt, return_inverse=True)
  order = np.random.default_rng(seed).permutation(len(prompts))
  return order[index.reshape(-1)] % 2 == 0


def cross_margins(
  features: Float[np.ndarray, "K D"],
  label: Labels,
  prompt: Int[np.ndarray, "K"],
  *,
  members: int,
  ridge: float = 1e-2,
  seed: int = 0,
) -> tuple[Float[np.ndarray, "K M"], Float[np.ndarray, "M 2 D"]]:
  """Margins of M proxies, each pair judged by a model of the other prompts.

  A member halves the prompts in its own way and fits a model to either half.

  Returns:
    (margins, weights of both models of each member).
  """
  margins, weights = [], []
  for member in range(members):
    half = _half(prompt, [seed, member])
    pair = [fit(features[m], label[m], ridge=ridge) for m in (half, ~half)]
    margins.append(np.where(half, features @ pair[1], features @ pair[0]))
    weights.append(pair)
  return np.stack(margins, 1), np.array(weights)


def agreement_of(
  label: Labels, margins: Float[np.ndarray, "K M"]
) -> Float[np.ndarray, "K M"]:
  """Margins of the labeled choice: positive where a proxy agrees."""
  return np.where(label > 0.5, 1.0, -1.0)[:, None] * margins


def strength(
  label: Labels, margins: Float[np.ndarray, "K M"]
) -> tuple[Labels, Labels]:
  """(mean, standard deviation) of `agreement_of` over the proxies."""
  signed = agreement_of(label, margins)
  return signed.mean(1), signed.std(1)


def preference_strength(
  label: Labels,
  margins: Float[np.ndarray, "K M"],
  *,
  flip: float = 0.2,
  soften: float = 0.2,
  smoothing: float = 0.2,
) -> Labels:
  """Flips the labels that the proxies contradict most, and smooths the next.

  Wang et al. 2024, https://arxiv.org/abs/2401.06080: of the mean margins of the
  labeled choice the lowest share is flipped, the next one is smoothed, the rest
  stays. Their margins within the loss are left out. Unverified: smoothing.

  Args:
    label: as labeled; ties stay.
    margins: of the proxies.
    flip: share that is flipped.
    soften: share that is smoothed.
    smoothing: probability of the other answer in these.
  """
  _require("flip", flip, 0, 1)
  _require("soften", soften, 0, 1 - flip)
  _require("smoothing", smoothing, 0, 0.5)
  decided = label != 0.5
  mean = np.where(decided, strength(label, margins)[0], np.inf)
  rank = np.empty(len(label), int)
  rank[np.argsort(mean, kind="stable")] = np.arange(len(label))
  count = int(decided.sum())
  turned = decided & (rank < round(flip * count))
  soft = decided & ~turned & (rank < round((flip + soften) * count))
  result = np.where(turned, 1 - label, label)
  return np.where(soft, smoothing + (1 - 2 * smoothing) * label, result)


def consensus(
  label: Labels,
  margins: Float[np.ndarray, "K M"],
  *,
  flip_above: float = 1.0,
) -> Labels:
  """Keeps the pairs on which all proxies agree with the label.

  After Liu et al. 2025, https://arxiv.org/abs/2507.01352, who keep pairs on
  which the label, the current model and one of verified pairs agree and flip the
  confidently wrong ones; here all proxies have to be sure. Unverified: thresholds.
  Their relabeling of similar pairs by a judge is left out.

  Args:
    label: as labeled; ties are dropped.
    margins: of the proxies.
    flip_above: probability that every proxy gives the other answer, above which
      the label is flipped; 1 for never.
  """
  _require("flip_above", flip_above, 0.5, 1)
  signed = agreement_of(label, margins)
  selection = (signed > 0).all(1)
  wrong = (_logistic(-signed) > flip_above).all(1)
  result = np.where(selection, label, np.where(wrong, 1 - label, np.nan))
  return np.where(label == 0.5, np.nan, result)


def smallest(loss: Labels, count: int) -> np.ndarray:
  """bool [K]: the `count` pairs of smallest loss, the first of equal ones."""
  selection = np.zeros(len(loss), bool)
  selection[np.argsort(loss, kind="stable")[:count]] = True
  return selection


def _loss(features: np.ndarray, label: Labels, w: np.ndarray) -> Labels:
  d = np.where(label > 0.5, 1.0, -1.0) * (features @ w)
  return np.logaddexp(0, -d)


def taught(
  models: list[Float[np.ndarray, "D"]],
  features: Float[np.ndarray, "K D"],
  label: Labels,
  keep: int,
  *,
  ridge: float = 1e-2,
) -> list[Float[np.ndarray, "D"]]:
  """Refits two models, each to the `keep` pairs of least loss under its peer."""
  selection = [smallest(_loss(features, label, w), keep) for w in models[::-1]]
  return [fit(features[part], label[part], ridge=ridge) for part in selection]


def coteach(
  label: Labels,
  features: Float[np.ndarray, "K D"],
  prompt: Int[np.ndarray, "K"],
  *,
  noise: float = 0.2,
  rounds: int = 10,
  ridge: float = 1e-2,
  seed: int = 0,
) -> Labels:
  """Two models choose for each other the pairs that they are fitted to.

  After Zhang et al. 2025, https://arxiv.org/abs/2505.10597: the kept share falls
  from all pairs to 1 - noise, and each model is fitted to the pairs on which its
  peer's loss is smallest. Here the models are linear, start on halves of the
  prompts, and are fitted anew each round; in the end a pair stays if its mean
  loss is among the smallest. Unverified: the paper's selection and schedule.

  Args:
    label: as labeled; ties stay.
    features: differences.
    prompt: of the pairs.
    noise: estimated share of wrong labels.
    rounds: until the kept share is reached, and as many after it.
    ridge: of `fit`.
    seed: of the halves.
  """
  _require("noise", noise, 0, 0.99)
  if noise == 0:
    return np.array(label, np.float64)
  half = _half(prompt, seed)
  models = [fit(features[m], label[m], ridge=ridge) for m in (half, ~half)]
  count = len(label)
  for t in range(1, 2 * rounds + 1):
    keep = int(np.ceil(count * (1 - min(t / rounds, 1.0) * noise)))
    models = taught(models, features, label, keep, ridge=ridge)
  keep = int(np.ceil(count * (1 - noise)))
  total = sum(_loss(features, label, w) for w in models)
  selection = smallest(np.asarray(total), keep) | (label == 0.5)
  return np.where(selection, label, np.nan)


def neighbour_distance(
  x: Float[np.ndarray, "K E"], k: int
) -> Float[np.ndarray, "K"]:
  """Distance of each row to its k-th nearest other row."""
  x = np.asarray(x, np.float64)
  k = min(k, len(x) - 1)
  square = (x**2).sum(1)
  result = np.zeros(len(x))
  for start in range(0, len(x), _MOST):
    part = slice(start, min(start + _MOST, len(x)))
    distance = square[part, None] - 2 * x[part] @ x.T + square
    rows = np.arange(part.start, part.stop)
    distance[np.arange(len(rows)), rows] = -1.0  # itself comes first
    nearest = np.partition(distance, k, axis=1)[:, k]
    result[part] = np.sqrt(np.maximum(nearest, 0))
  return result


def importance(
  label: Labels,
  margins: Float[np.ndarray, "K M"],
  embeddings: Float[np.ndarray, "K E"],
  prompt: Int[np.ndarray, "K"],
  *,
  share: float = 0.3,
  diversity: float = 0.1,
  neighbours: int = 5,
) -> Labels:
  """Keeps the pairs of large margin whose prompts are unlike the others.

  After FiFA (Yang et al. 2024, https://arxiv.org/abs/2410.10166): the score of
  a pair is |m| + diversity log(distance of its prompt to the k-th nearest one),
  an estimate of the entropy of what is kept; margins are in units of their
  mean. The margin is signed by the label, so that a contradicted pair goes last.
  Their quality of prompts by a language model is left out. Unverified: weights,
  k, and whether margins are signed.

  Args:
    label: as labeled.
    margins: of the proxies.
    embeddings: of the prompts.
    prompt: of the pairs.
    share: of pairs that are kept.
    diversity: weight of the entropy; 0 for margins alone.
    neighbours: k.
  """
  _require("share", share, 0, 1)
  mean = strength(label, margins)[0]
  score = mean / max(float(np.abs(mean).mean()), 1e-12)
  if diversity:
    _, first, index = np.unique(prompt, return_index=True, return_inverse=True)
    distance = neighbour_distance(embeddings[first], neighbours)
    entropy = np.log(np.maximum(distance, 1e-6))
    score = score + diversity * entropy[index.reshape(-1)]
  selection = smallest(-score, round(share * len(label)))
  return np.where(selection, label, np.nan)


def aligned(
  label: Labels, scores: Float[np.ndarray, "K 2"], *, share: float = 0.5
) -> Labels:
  """Keeps the pairs whose preferred image fits its prompt best.

  After Compress & Align (Zhang et al. 2023, https://arxiv.org/abs/2312.06726),
  where a model trained on rankings keeps the top share of images with texts.
  Unverified: the rule of the threshold.

  Args:
    label: as labeled; of a tie the better image counts.
    scores: of both images.
    share: of pairs that are kept.
  """
  _require("share", share, 0, 1)
  winner_scores = np.where(label > 0.5, scores[:, 0], scores[:, 1])
  winner_scores = np.where(label == 0.5, scores.max(1), winner_scores)
  selection = smallest(-winner_scores, round(share * len(label)))
  return np.where(selection, label, np.nan)


def extremes(
  label: Labels, scores: Float[np.ndarray, "K 2"], prompt: Int[np.ndarray, "K"],
  *, count: int = 1,
) -> Labels:  # fmt: skip
  """Keeps for each prompt the pairs of the largest gap in score.

  Top against bottom, as rankings of many images are reduced to pairs.

  Args:
    label: as labeled.
    scores: of both images.
    prompt: of the pairs.
    count: pairs per prompt.
  """
  if count < 1:
    raise UserError(f"count={count}: it must be at least 1")
  gap = -np.abs(scores[:, 0] - scores[:, 1])
  selection = np.zeros(len(label), bool)
  for number in np.unique(prompt):
    index = np.flatnonzero(prompt == number)
    selection[index[smallest(gap[index], count)]] = True
  return np.where(selection, label, np.nan)


def of_like_size(
  label: Labels, sizes: Float[np.ndarray, "K 2"], *, most: float = 2.0
) -> Labels:
  """Drops pairs whose preferred image has a much larger JPEG than the other.

  After InternLM-XComposer2.5-Reward (https://arxiv.org/abs/2501.12368), which drops
  pairs whose chosen answer is much longer than the rejected one, so that length is not
  what is learned; of images the size as a JPEG stands for length. Pairs are dropped on one
  side alone, so that a low threshold teaches that small is better. Unverified: the
  threshold.

  Args:
    label: as labeled; ties stay.
    sizes: of both images, above 0.
    most: times the size of the other image.
  """
  _require("most", most, 1, np.inf)
  first = label > 0.5
  winner = np.where(first, sizes[:, 0], sizes[:, 1])
  loser = np.where(first, sizes[:, 1], sizes[:, 0])
  selection = (winner <= most * loser) | (label == 0.5)
  return np.where(selection, label, np.nan)


CURATION: dict[str, Callable[..., Any]] = {
  "aligned": aligned,
  "consensus": consensus,
  "coteach": coteach,
  "extremes": extremes,
  "importance": importance,
  "of_like_size": of_like_size,
  "preference_strength": preference_strength,
}
