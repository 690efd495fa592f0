"""The rows that a reward model is tested on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxreward.data import preferences
from jaxreward.data.image_store import ImageStore
from jaxreward.data.preferences import Preferences
from jaxreward.report import hardest
from jaxreward.reward_models import RewardModel
from jaxreward.setup import reward_model
from jaxreward.types import Params

HARDEST = 24  # pairs on the page


@dataclasses.dataclass(frozen=True)
class Heldout:
  """Held-out rows, with the images of a file apart from them.

  Attributes:
    rows: the rows.
    store: images of a file; None where the rows have them.
    counts: () -> of the file's rows, by what became of them.
    texts: () -> their prompts.
  """

  rows: Preferences
  store: ImageStore | None = None
  counts: Callable[[], dict[str, int]] = dict
  texts: Callable[[], Sequence[str]] = list

  def scorer(self, model: RewardModel) -> Callable[[Params], np.ndarray]:
    """Parameters -> scores [Q, N] of the rows."""
    if self.store is None:
      score = reward_model.row_scorer(model)
      return lambda params: score(params, self.rows)
    return reward_model.stream_scorer(model, self.rows, self.store)

  def halves(self, seed: int) -> tuple[Heldout, Heldout]:
    """Rows to choose a step by, and rows to test it on, of other prompts."""
    prompt = preferences.prompt_numbers(self.rows)
    order = np.random.default_rng(seed).permutation(prompt.max() + 1)
    first = order[prompt] % 2 == 0
    return self._of(np.flatnonzero(first)), self._of(np.flatnonzero(~first))

  def _of(self, index: np.ndarray) -> Heldout:
    texts = lambda: [self.texts()[i] for i in index]
    rows = preferences.take_rows(self.rows, index)
    return dataclasses.replace(self, rows=rows, texts=texts)

  def images(self, members: np.ndarray) -> np.ndarray:
    """uint8 images by their number, of any shape."""
    if self.store is None:
      return np.asarray(self.rows.images)[members]
    return self.store.stills(members)[0]

  def save_hardest(
    self,
    path: epath.Path,
    scores: np.ndarray,
    seed: int,
    temperature: float = 1.0,
  ) -> None:
    """Saves the pairs whose label has the smallest probability, the worst first.

    Of pairs that share no image; nothing without a pair.
    """
    row, columns = preferences.separate_pairs(self.rows, seed)
    pairs = scores[row[:, None], columns]
    d = pairs[:, 0] - pairs[:, 1]
    order = np.argsort(np.where(np.isfinite(d), d, np.inf), kind="stable")
    order = order[: min(HARDEST, int(np.isfinite(d).sum()))]
    if not order.size:
      return
    members = np.asarray(self.rows.members)[row[order, None], columns[order]]
    texts = list(self.texts()) or [""] * len(scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [
      {
        "prompt": texts[row[i]],
        "scores": [float(score) for score in pairs[i]],
        "probability": float(0.5 * (1 + np.tanh(d[i] / temperature / 2))),
      }
      for i in order
    ]
    hardest.save(path, self.images(members), records)
