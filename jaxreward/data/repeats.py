"""Prompts that occur in a batch more than once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxreward.types import ArrayLike, PromptBatch

SPREAD = 0x9E3779B9  # odd, so that repetitions of an id stay apart


def distinct_ids(batch: PromptBatch) -> PromptBatch:
  """The batch with a distinct id for every repetition of a prompt.

  Keys are folded with ids, so without this two groups of one prompt would have
  the same images. The first id is unchanged; the n-th repetition adds n times a
  constant, modulo 2^32.
  """
  return dataclasses.replace(batch, ids=spread(batch.ids))


def spread(ids: Sequence[int] | ArrayLike) -> np.ndarray:
  """Ids as uint32, each repetition another; see `distinct_ids`."""
  ids = np.asarray(ids, np.uint64)
  counts: dict[int, int] = {}
  repeat = np.zeros(len(ids), np.uint64)
  for row, number in enumerate(ids.tolist()):
    repeat[row] = counts.get(number, 0)
    counts[number] = counts.get(number, 0) + 1
  return ((ids + repeat * SPREAD) % 2**32).astype(np.uint32)
