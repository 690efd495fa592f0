"""Batches for pretraining on portraits and on their edits.

Where a caption is wrong, the picture differs from it in one attribute; captions
stay those of the training split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import grain
import jax
import numpy as np

from jaxreward.data import pipeline
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import edits, prompts
from jaxreward.types import PromptBatch


def wrong(
  batch: PromptBatch, share: float, rng: np.random.Generator
) -> PromptBatch:
  """The batch with one requested value of a share of its rows replaced."""
  extras: prompts.Asked = batch.extras
  rows, counts = np.array(extras.rows), np.array(at.COUNTS)
  for row in np.flatnonzero(rng.random(len(rows)) < share):
    places = np.argwhere(np.asarray(extras.role)[row] == prompts.ASKED)
    if len(places):
      i, j = places[rng.integers(len(places))]
      rows[row, i, j] = (rows[row, i, j] + rng.integers(1, counts[j])) % counts[
        j
      ]
  return dataclasses.replace(
    batch, extras=dataclasses.replace(extras, rows=rows)
  )


def caption_batches(
  chosen: Sequence[prompts.Prompt],
  *,
  seed: int,
  batch_size: int,
  corruption: float,
  kind_weights: Sequence[int],
  steps: int,
) -> grain.MapDataset:
  """Batches by step number, the same in every process and after a resume.

  Returns:
    A dataset whose element n is {"scene": PromptBatch of the images,
    "caption": int32 [B, L], "seed": uint32 [B] to draw what is free}.
  """
  stream = pipeline.prompt_batches(
    chosen, seed=seed, batch_size=batch_size, kind_weights=kind_weights,
    categories=prompts.CATEGORIES, rows=prompts.batch,
  )  # fmt: skip

  def apply(index, rng):
    batch = stream(int(index))
    scene = wrong(batch, corruption, rng)
    return {
      "scene": scene, "caption": batch.tokens,
      "seed": pipeline.seeds_of(index, batch_size),
    }  # fmt: skip

  return grain.MapDataset.range(steps).seed(seed).random_map(apply)


def edit_batches(
  chosen: Sequence[prompts.Prompt],
  *,
  seed: int,
  batch_size: int,
  corruption: float,
  kind_weights: Sequence[int],
  steps: int,
) -> grain.MapDataset:
  """As `caption_batches`, for edits, whose words are always right.

  Returns:
    A dataset whose element n is {"source" and "picture", the answer: float32
    [B, S, S, 3], "caption": int32 [B, L], "seed": uint32 [B]}.
  """
  del corruption
  stream = pipeline.prompt_batches(
    chosen, seed=seed, batch_size=batch_size, kind_weights=kind_weights,
    categories=prompts.EDIT_CATEGORIES, rows=prompts.batch, attach=_with_answer,
  )  # fmt: skip

  def apply(index):
    batch = stream(int(index))
    return {
      "source": batch.source, "picture": batch.target,
      "caption": batch.tokens, "seed": pipeline.seeds_of(index, batch_size),
    }  # fmt: skip

  return grain.MapDataset.range(steps).map(apply)


def _with_answer(batch, chosen, side=0):
  """The source and a right answer, also where there are many."""
  del side
  source, answers = edits.draw(chosen)
  batch = dataclasses.replace(batch, source=source, target=answers)
  return jax.tree.map(np.asarray, batch)
