"""Batches for pretraining on moving scenes, a fraction of them wrong."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from jaxreward.data import pipeline
from jaxreward.tasks.motion import prompts
from jaxreward.tasks.motion.prompts import CHANGES, JUMPS
from jaxreward.types import PromptBatch


def wrong(
  batch: PromptBatch, share: float, rng: np.random.Generator
) -> PromptBatch:
  """The batch with a fraction of its videos wrong, each in one of three ways.

  A single object moves as that of another row, and two objects swap their
  motions; or the first object jumps, also if no other motion is available; or
  its colour or shape changes.
  """
  extras: prompts.Asked = batch.extras
  items, fault = np.array(extras.items), np.array(extras.fault)
  is_pair = items[:, 1, 0] >= 0
  single = np.asarray(extras.items)[~is_pair, 0, 2]
  for row in np.flatnonzero(rng.random(len(fault)) < share):
    reason = rng.integers(3)
    if is_pair[row]:  # they trade motions, so that both keep their axis
      motions = items[row, ::-1, 2].copy()
    else:
      others = single[single != items[row, 0, 2]]
      motions = [
        rng.choice(others) if len(others) else items[row, 0, 2],
        items[row, 1, 2],
      ]
    if reason == 0 and not np.array_equal(motions, items[row, :, 2]):
      items[row, :, 2] = motions
    else:
      fault[row] = CHANGES if reason == 2 else JUMPS
  return dataclasses.replace(
    batch, extras=dataclasses.replace(extras, items=items, fault=fault)
  )


caption_batches = functools.partial(
  pipeline.caption_batches, wrong=wrong, rows=prompts.batch,
  categories=prompts.CATEGORIES,
)  # fmt: skip
