"""All that an evaluation of rewards reports, from scores and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxreward.evaluation import intervals
from jaxreward.evaluation.reward_models import consistency, pairs, ranks
from jaxreward.reward_models import calibration
from jaxreward.types import ArrayLike


@dataclasses.dataclass(frozen=True)
class Labels:
  """What is known of Q rows of N images.

  Attributes:
    prob: [Q, N, N], that the row's image is preferred; NaN where unlabeled.
    gold: [Q, N], ratings, or what stands for them (`ratings`); NaN where
      unknown.
    prompt: [Q], equal for rows of one prompt, which are not independent.
    model: [Q, N], number of who drew an image; -1 where unknown.
    rating: [Q, N], ratings alone; NaN where unknown; None for none.
  """

  prob: Float[np.ndarray, "Q N N"]
  gold: Float[np.ndarray, "Q N"]
  prompt: Int[np.ndarray, "Q"]
  model: Int[np.ndarray, "Q N"]
  rating: Float[np.ndarray, "Q N"] | None = None


def ratings(
  prob: Float[ArrayLike, "Q N N"], known: Float[ArrayLike, "Q N"]
) -> Float[np.ndarray, "Q N"]:
  """Known ratings; in rows without any, the share of comparisons won.

  A tie counts half; NaN for an image that is compared with no other.
  """
  prob, known = np.asarray(prob, np.float64), np.asarray(known, np.float64)
  count = np.isfinite(prob).sum(-1)
  won = np.where(count > 0, np.nansum(prob, -1) / np.maximum(count, 1), np.nan)
  return np.where(np.isfinite(known).any(-1, keepdims=True), known, won)


def share(values: ArrayLike, clusters: ArrayLike) -> dict[str, Any]:
  """{"accuracy", "low", "high", "n"} of values in [0, 1]; NaN is left out."""
  values = np.asarray(values, np.float64)
  valid = np.isfinite(values)
  values, clusters = values[valid], np.asarray(clusters)[valid]
  if not values.size:
    return {"accuracy": None, "low": None, "high": None, "n": 0}
  low, high = intervals.share(values, clusters)
  return {
    "accuracy": float(values.mean()), "low": low, "high": high,
    "n": int(values.size),
  }  # fmt: skip


def pair_outcomes(
  labels: Labels, scores: Float[ArrayLike, "Q N"]
) -> tuple[np.ndarray, np.ndarray]:
  """(1, 0 or for equal scores 1/2 per pair with a winner, its prompt), [K]."""
  table = pairs.labeled(labels.prob)
  d = pairs.differences(scores, table)
  decided = table.answer != 0
  d, answer = d[decided], table.answer[decided]
  outcome = np.where(d == 0, 0.5, np.sign(d) == answer) * np.isfinite(d)
  return outcome, labels.prompt[table.row[decided]]


def agreement(
  labels: Labels,
  scores: Float[ArrayLike, "Q N"],
  answers: Mapping[str, Float[np.ndarray, "Q N N"]] | None = None,
  *,
  best_of: Sequence[int] = (2, 4),
  seed: int = 0,
) -> dict[str, Any]:
  """How well one reward agrees with the labels.

  Args:
    labels: of Q rows.
    scores: not finite where the reward failed.
    answers: aspect -> as the labels' `prob`.
    best_of: numbers of images among which the best is chosen.
    seed: of the choice of four candidates.

  Returns:
    accuracy, low, high, n of pairs with a winner, and under "answers" of those of
    each aspect; "with_ties" of all pairs,
    ties judged at a threshold fitted to other prompts; "best_of_4" of one right
    among four; "ties", see `pairs.ties_score`; "regret" by number of images;
    "spearman" and "kendall", means over prompts, and "models" over models;
    "starc", the distance to the ratings; "pearson" and "error", see
    `beside_ratings`, of rows that have ratings of their own; "temperature",
    "calibration_error" and "calibration_error_scaled", with that temperature;
    "failed", the share of scores that are not finite.
  """
  scores = np.asarray(scores, np.float64)
  table = pairs.labeled(labels.prob)
  d, gold = pairs.differences(scores, table), labels.gold
  results = share(*pair_outcomes(labels, scores))
  if answers:
    results["answers"] = {
      aspect: share(
        *pair_outcomes(dataclasses.replace(labels, prob=prob), scores)
      )
      for aspect, prob in answers.items()
    }
  of_pair = labels.prompt[table.row]
  if (table.answer == 0).any():
    right = pairs.accuracy_with_ties(d, table.answer, of_pair)
    results["with_ties"] = share(right, of_pair)
  row, columns = pairs.one_of_four(labels.prob, np.random.default_rng(seed))
  if row.size:
    first = np.arange(4) == np.zeros((row.size, 1))
    right = pairs.picked(scores[row[:, None], columns], first)
    results["best_of_4"] = share(right, labels.prompt[row])
  right_scores, wrong_scores = pairs.ties_of(scores, gold)
  if right_scores:
    results["ties"] = pairs.ties_score(right_scores, wrong_scores)
  regret = {
    str(n): _mean([
      pairs.best_of_n_regret(s, g, n)
      for s, g in zip(scores, gold, strict=True)
    ])
    for n in best_of
  }  # fmt: skip
  results["regret"] = {n: v for n, v in regret.items() if v is not None}
  correlations = ranks.per_prompt(scores, gold)
  results |= {name: _mean(values) for name, values in correlations.items()}
  models = ranks.per_model(scores, gold, labels.model)
  if models["models"] > 1:
    results["models"] = models
  if np.isfinite(gold).any():
    results["starc"] = ranks.starc(scores, gold)
  rating = (
    np.full(gold.shape, np.nan) if labels.rating is None else labels.rating
  )
  results |= beside_ratings(rating, scores)
  decided = (table.answer != 0) & np.isfinite(d)
  if decided.any():
    signed = d[decided] * table.answer[decided]
    results |= calibrated(signed, of_pair[decided])
  named = np.isfinite(gold)
  for prob in (answers or {}).values():
    named = named | np.isfinite(prob).any(-1)
  results["failed"] = float((~np.isfinite(scores) & named).sum()) / max(
    int(named.sum()), 1
  )
  return results


def beside_ratings(
  gold: Float[ArrayLike, "Q N"], scores: Float[ArrayLike, "Q N"]
) -> dict[str, float | None]:
  """{"pearson", "error"}: correlation with the ratings over all images, and the mean
  of |score - rating|; None where either has one value alone, or there is none."""
  gold, scores = (np.asarray(x, np.float64) for x in (gold, scores))
  both = np.isfinite(gold) & np.isfinite(scores)
  gold, scores = gold[both], scores[both]
  if not gold.size:
    return {"pearson": None, "error": None}
  vary = np.ptp(gold) > 0 and np.ptp(scores) > 0
  return {
    "pearson": float(np.corrcoef(gold, scores)[0, 1]) if vary else None,
    "error": float(np.abs(gold - scores).mean()),
  }


def missed(
  results: Mapping[str, Any],
  pearson: float | None = None,
  error: float | None = None,
) -> str:
  """What a reward has missed of a gate, in words; "" where it has passed.

  Args:
    results: of `beside_ratings`.
    pearson: least correlation; None for any.
    error: largest mean error; None for any.
  """
  got, off = results["pearson"], results["error"]
  if pearson is not None and (got is None or got < pearson):
    value = "none" if got is None else f"{got:.3f}"
    return f"its correlation with the ratings is {value}, below {pearson:g}"
  if error is not None and (off is None or off > error):
    value = "unknown" if off is None else f"{off:.3f}"
    return f"its mean error is {value}, above {error:g}"
  return ""


def calibrated(
  d: Float[ArrayLike, "K"], clusters: ArrayLike
) -> dict[str, float]:
  """Temperature, and the calibration error without and with one.

  The error with a temperature is that of each half of the clusters with the
  temperature of the other.

  Args:
    d: score of the preferred image less that of the other; one that is not
      finite is left out, and one has to be.
    clusters: [K], such as prompts.
  """
  d = np.asarray(d, np.float64)
  valid = np.isfinite(d)
  d, clusters = d[valid], np.asarray(clusters)[valid]
  index = np.unique(clusters, return_inverse=True)[1].reshape(-1)
  half = index % 2 == 1
  scaled = np.array(d)
  for side in (half, ~half):
    if side.any() and (~side).any():
      scaled[side] = d[side] / calibration.fit_temperature(d[~side])
  error = calibration.expected_calibration_error
  return {
    "temperature": calibration.fit_temperature(d),
    "calibration_error": error(d),
    "calibration_error_scaled": error(scaled),
  }


def _mean(values: Any) -> float | None:
  """Mean of the finite entries; None without one."""
  values = np.asarray(values, np.float64)
  values = values[np.isfinite(values)]
  return float(values.mean()) if values.size else None


def invariance(
  scores: Float[ArrayLike, "Q N"],
  others: Float[ArrayLike, "Q N"],
  prompt: ArrayLike,
) -> dict[str, Any]:
  """{"order": share of pairs in the same order, "shift": of the scores}."""
  order = consistency.same_order(scores, others)
  return {
    "order": share(order, prompt),
    "shift": _mean(consistency.relative_shift(scores, others)),
  }


def corrupted(
  scores: Mapping[str, Float[ArrayLike, "Q S"]], prompt: ArrayLike
) -> dict[str, Any]:
  """{kind: {"monotone", "noticed"}}; see `consistency.sensitivity`."""
  results = {}
  for kind, values in scores.items():
    table = consistency.sensitivity(values)
    results[kind] = {
      name: share(table[name], prompt) for name in ("monotone", "noticed")
    }
  return results


def contrasts(
  scores: Float[ArrayLike, "K 2 2"], clusters: ArrayLike
) -> dict[str, Any]:
  """{"images", "prompts", "prompts_centered"}; see `consistency.contrast`."""
  return {
    name: share(values, clusters)
    for name, values in consistency.contrast(scores).items()
  }


def side_by_side(
  labels: Labels, scores: Mapping[str, Float[ArrayLike, "Q N"]]
) -> dict[str, Any]:
  """Accuracy of each reward less that of the first, on the same pairs.

  Returns:
    {reward: {"against", "value", "low", "high"}}, prompts resampled.
  """
  names = list(scores)
  outcomes = {name: pair_outcomes(labels, scores[name]) for name in names}
  results = {}
  for name in names[1:] if outcomes[names[0]][0].size else ():
    (before, prompt), (after, _) = outcomes[names[0]], outcomes[name]
    interval = intervals.paired_bootstrap(before, after, clusters=prompt)
    results[name] = {"against": names[0], **interval._asdict()}
  return results


def minimal_pairs(texts: Sequence[str]) -> Int[np.ndarray, "K 2"]:
  """Pairs of prompts that differ in a single word; each prompt is in one.

  In the order of the texts.
  """
  by_gap: dict[tuple[int, tuple[str, ...]], list[int]] = {}
  words = [tuple(text.lower().replace(".", " ").split()) for text in texts]
  used: set[int] = set()
  table = []
  for i, word in enumerate(words):
    keys = [(k, word[:k] + word[k + 1 :]) for k in range(len(word))]
    for key in keys:
      others = [
        j for j in by_gap.get(key, ()) if j not in used and words[j] != word
      ]
      if others:
        table.append((others[0], i))
        used |= {others[0], i}
        break
    for key in keys:
      by_gap.setdefault(key, []).append(i)
  return np.array(table, int).reshape(-1, 2)
