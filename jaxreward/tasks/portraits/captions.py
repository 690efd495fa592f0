"""Batches for pretraining on portraits and on their edits.

Where a caption is wrong, the picture differs from it in one attribute; captions
are always of the training split.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import grain
import jax
import numpy as np

from jaxreward.data import pipeline
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import edits, prompts, render
from jaxreward.types import PromptBatch


def wrong(
  batch: PromptBatch,
  share: float,
  rng: np.random.Generator,
  roles: Sequence[int] = (prompts.ASKED,),
) -> PromptBatch:
  """The batch with one value in `roles` replaced in a fraction of its rows."""
  extras: prompts.Asked = batch.extras
  rows, counts = np.array(extras.rows), np.array(at.COUNTS)
  for row in np.flatnonzero(rng.random(len(rows)) < share):
    places = np.argwhere(np.isin(np.asarray(extras.role)[row], roles))
    if len(places):
      i, j = places[rng.integers(len(places))]
      rows[row, i, j] = (rows[row, i, j] + rng.integers(1, counts[j])) % counts[
        j
      ]
  return dataclasses.replace(
    batch, extras=dataclasses.replace(extras, rows=rows)
  )


def wrong_answers(
  batch: PromptBatch, share: float, rng: np.random.Generator
) -> np.ndarray:
  """Answers of edits, int32 [B, 2, A], some of them wrong.

  In a fraction of them one attribute is not as requested; independently, in the
  same fraction one attribute that should be preserved is changed. An answer
  that would show a held-out person stays right.
  """
  spoiled = wrong(batch, share, rng)
  spoiled = wrong(spoiled, share, rng, (prompts.KEPT, prompts.PERSON))
  rows = np.array(spoiled.extras.rows)
  heldout = edits.is_heldout(rows).any(-1)
  rows[heldout] = batch.extras.rows[heldout]
  return rows


caption_batches = functools.partial(
  pipeline.caption_batches, wrong=wrong, rows=prompts.batch,
  categories=prompts.CATEGORIES,
)  # fmt: skip


def edit_batches(
  chosen: Sequence[prompts.Prompt],
  *,
  seed: int,
  batch_size: int,
  corruption: float,
  kind_weights: Sequence[int],
  steps: int,
  control: str = "grey",
) -> grain.MapDataset:
  """As `caption_batches`, for edits, with some wrong answers.

  `control` is one of `edits.CONTROLS`.

  Returns:
    A dataset whose element n is {"source" and "picture", the answer: float32
    [B, S, S, 3], "caption": int32 [B, L], "seed": uint32 [B]}.
  """
  stream = pipeline.prompt_batches(
    chosen, seed=seed, batch_size=batch_size, kind_weights=kind_weights,
    categories=prompts.EDIT_CATEGORIES, rows=prompts.batch,
    attach=functools.partial(_with_answer, control=control),
  )  # fmt: skip

  def apply(index, rng):
    batch = stream(int(index))
    rows = wrong_answers(batch, corruption, rng)
    return {
      "source": batch.source,
      "picture": render.compose(rows, batch.extras.count),
      "caption": batch.tokens,
      "seed": pipeline.seeds_of(index, batch_size),
    }  # fmt: skip

  return grain.MapDataset.range(steps).seed(seed).random_map(apply)


def _with_answer(batch, chosen, side=0, *, control):
  """The source, and the attributes of a right answer, free ones too."""
  del side
  source, _ = edits.draw(chosen, control)
  rows = np.stack([edits.answer(p.pictures) for p in chosen])
  extras = dataclasses.replace(batch.extras, rows=rows)
  batch = dataclasses.replace(batch, source=source, extras=extras)
  return jax.tree.map(np.asarray, batch)
