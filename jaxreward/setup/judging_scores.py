"""Scores of rewards on rows of preferences, and on the same rows seen otherwise."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward import processes
from jaxreward.data import corruptions
from jaxreward.data.prompts import Prompt
from jaxreward.evaluation.reward_models import judge, probes
from jaxreward.evaluation.reward_models.judge import Labels
from jaxreward.rewards import Reward, applies_to, score
from jaxreward.setup import videos
from jaxreward.tasks import Task

K = TypeVar("K")
_SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Rows:
  """Q rows of N images.

  Attributes:
    prompts: of the rows.
    images: numbers of B rows -> float32 [B, N, H, W, 3] in [0, 1]; NaN where a
      row has fewer images. Frames of a clip lie side by side.
    labels: of the images.
    aspects: name -> [Q, N], ratings; NaN where unknown.
    task: of the prompts.
    answers: name -> [Q, N, N], as the labels' `prob` for an aspect.
    frames: of each image; 1 for what is no clip.
  """

  prompts: tuple[Prompt, ...]
  images: Callable[[np.ndarray], np.ndarray]
  labels: Labels
  aspects: Mapping[str, np.ndarray]
  task: Task
  answers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  frames: int = 1


Scores = dict[str, Float[np.ndarray, "Q N"]]
# (images [B, N, H, W, 3], B prompts) -> scores
Scorer = Callable[[np.ndarray, Sequence[Prompt]], Scores]


def make_scorer(
  rewards: Mapping[str, Reward], task: Task, size: int, side: int
) -> Scorer:
  """Scores of at most `size` rows at once, padded to it.

  NaN where a reward is not applicable. `side` is the size of source images.
  """

  def scorer(images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
    pad = size - len(prompts)
    batch = task.batch([*prompts, *[prompts[-1]] * pad], side=side)
    images = np.concatenate([images, np.repeat(images[-1:], pad, 0)])
    scores, _ = score(rewards, jnp.asarray(images), batch)
    results = {}
    for name, values in processes.fetch(scores).items():
      reward = rewards.get(name)
      rows = np.asarray(values, np.float64)
      if reward is not None:
        valid = np.asarray(applies_to(reward.weight, batch.plain))
        rows = np.where(valid, rows, np.nan)
      results[name] = rows[: len(prompts)]
    return results

  return scorer


def over_rows(
  fn: Callable[[np.ndarray], Mapping[K, np.ndarray]], count: int, size: int
) -> dict[K, np.ndarray]:
  """Results of `fn` on row numbers, `size` at a time, joined."""
  parts = [
    fn(np.arange(start, min(start + size, count)))
    for start in range(0, count, size)
  ]
  return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def best_images(rows: Rows, index: np.ndarray) -> np.ndarray:
  """The best rated image of each row, [B, H, W, 3]."""
  gold = rows.labels.gold[index]
  best = np.argmax(np.where(np.isfinite(gold), gold, -np.inf), 1)
  return rows.images(index)[np.arange(len(index)), best]


class Views:
  """Scores of the same rows seen otherwise, for at most `most` rows.

  Args:
    rows: that are judged.
    scorer: of the rewards.
    size: rows at once.
    most: rows of each view.
    seed: of corruptions.
  """

  def __init__(
    self, rows: Rows, scorer: Scorer, size: int, most: int, seed: int
  ):
    self.rows, self.scorer, self.size, self.seed = rows, scorer, size, seed
    self.count = min(len(rows.prompts), most)

  def _over(self, fn, index: np.ndarray) -> Scores:
    return over_rows(lambda part: fn(index[part]), len(index), self.size)

  def _prompts(self, index: np.ndarray) -> list[Prompt]:
    return [self.rows.prompts[i] for i in index]

  def mirrored(self) -> tuple[np.ndarray, Scores]:
    """(rows whose prompt names no side and no image, their scores mirrored)."""
    prompts = self.rows.prompts[: self.count]
    is_free = [
      p.pictures is None and not _SIDED.search(p.text) for p in prompts
    ]
    index = np.flatnonzero(is_free)
    if not index.size:
      return index, {}

    def fn(part: np.ndarray) -> Scores:
      frames = videos.frames_of(self.rows.images(part), self.rows.frames)
      images = np.concatenate([x[..., ::-1, :] for x in frames], -2)
      return self.scorer(images, self._prompts(part))

    return index, self._over(fn, index)

  def reworded(self) -> tuple[np.ndarray, Scores]:
    """(rows whose prompt has another wording, their scores under it)."""
    others = [
      self.rows.task.reword(p) if self.rows.task.reword else None
      for p in self.rows.prompts[: self.count]
    ]
    index = np.flatnonzero([other is not None for other in others])
    if not index.size:
      return index, {}

    def fn(part: np.ndarray) -> Scores:
      prompts = [p for i in part if (p := others[i]) is not None]
      return self.scorer(self.rows.images(part), prompts)

    return index, self._over(fn, index)

  def corrupted(self, severities: int) -> dict[str, dict[str, np.ndarray]]:
    """Reward -> kind -> scores [B, S + 1] of best images, clean to worst."""

    def fn(part: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
      images, prompts = best_images(self.rows, part), self._prompts(part)
      scores = {}
      for kind in corruptions.KINDS:
        steps = corruptions.steps(kind, images, severities, self.seed)
        of_kind = self.scorer(steps.astype(np.float32), prompts)
        scores |= {(name, kind): values for name, values in of_kind.items()}
      return scores

    results: dict[str, dict[str, np.ndarray]] = {}
    table = over_rows(fn, self.count, self.size)
    for (name, kind), values in table.items():
      results.setdefault(name, {})[kind] = values
    return results

  def contrasts(self) -> tuple[np.ndarray, Scores]:
    """(pairs of rows [K, 2] whose prompts differ in a word, scores [2K, 2]).

    Rows are the two prompts of each pair, columns the two best images.
    """
    texts = [p.text for p in self.rows.prompts[: self.count]]
    table = judge.minimal_pairs(texts)
    if not table.size:
      return table, {}
    index = table.reshape(-1)

    def fn(part: np.ndarray) -> Scores:
      first, second = (
        best_images(self.rows, table[part // 2, i]) for i in (0, 1)
      )
      images = np.stack([first, second], 1)
      return self.scorer(images, self._prompts(index[part]))

    return table, over_rows(fn, len(index), self.size)


def features_of(reward: Reward, task: Task) -> Callable[..., np.ndarray] | None:
  """(images [B, N, ...], prompts) -> what a learned head reads, [B, N, D]."""
  scorer = getattr(reward.fn, "keywords", {}).get("scorer")
  backbone = getattr(scorer, "backbone", None)
  if backbone is None:
    return None

  @jax.jit
  def run(params, images, tokens):
    return backbone.features(params["backbone"], images, tokens)["joint"]

  def features(images: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    if backbone.read is None:
      tokens = task.batch(prompts).tokens
    else:
      tokens = backbone.read([p.text for p in prompts])
    return np.asarray(processes.fetch(
      run(reward.context["params"], images, jnp.asarray(tokens))
    ))  # fmt: skip

  return features


def probed(
  rows: Rows, reward: Reward, most: int, size: int, seed: int
) -> dict[str, Any]:
  """Accuracy of probes of a learned reward's features; empty for others.

  Aspects are split at their median. Features of clips are not probed.
  """
  features = features_of(reward, rows.task)
  if features is None or not rows.aspects or rows.frames > 1:
    return {}
  count = min(len(rows.prompts), most) // size * size or len(rows.prompts)

  def fn(part: np.ndarray) -> dict[str, np.ndarray]:
    prompts = [rows.prompts[i] for i in part]
    return {"features": features(rows.images(part), prompts)}

  table = over_rows(fn, count, size)["features"]
  labels = {}
  for name, values in rows.aspects.items():
    values = np.asarray(values[:count], np.float64).reshape(-1)
    high = values > np.nanmedian(values)
    labels[name] = np.where(np.isfinite(values), high, -1).astype(int)
  prompt = np.repeat(rows.labels.prompt[:count], table.shape[1])
  flat = table.reshape(-1, table.shape[-1])
  return probes.by_aspect(flat, labels, prompt, seed=seed)
