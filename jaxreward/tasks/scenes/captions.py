"""Captions for pretraining: random-access batches, some captions wrong.

Images of web data often do not match their captions. Here a share of the
captions differs from the image in one attribute, so that the pretrained policy
has the weakness of real ones: it can follow a prompt, but often does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import grain
import jax
import numpy as np

from jaxreward.data import pipeline
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import edits, grammar


def attributes(prompt: grammar.Prompt) -> tuple[int, ...]:
  """Count, colour and shape of two items, the relation, and the category.

  The category and the number of items are listed twice, so that prompts that
  differ in them differ in two places.
  """
  items = [v for item in prompt.items for v in item]
  fixed = prompt.category, len(prompt.items)
  return (*items, *[-9] * (6 - len(items)), prompt.relation, *fixed, *fixed)


def one_attribute_away(
  prompts: Sequence[grammar.Prompt],
) -> list[list[int]]:
  """For every prompt, those of its category that differ in one attribute.

  Only the given prompts are used, so a corrupted caption of the training split
  is itself of the training split. A prompt without a neighbour gets itself.
  """
  rows = np.array([attributes(prompt) for prompt in prompts])
  near = (rows[:, None] != rows).sum(-1) == 1
  return [np.flatnonzero(row).tolist() or [i] for i, row in enumerate(near)]


def kind_pattern(weights: Sequence[int], size: int) -> np.ndarray:
  """int [size] categories in proportion to weights, evenly interleaved."""
  share = np.asarray(weights, np.float64)
  if len(share) != len(grammar.KINDS) or share.min() < 0 or share.max() <= 0:
    raise UserError(
      f"config.data.kind_weights={tuple(weights)}: {len(grammar.KINDS)}"
      " non-negative numbers, not all 0, are needed: one for each kind"
    )
  share, counts = share / share.sum(), np.zeros(len(share))
  pattern = np.zeros(size, np.int64)
  for i in range(size):  # next: the category furthest below its share
    pattern[i] = np.argmax(share * (i + 1) - counts)
    counts[pattern[i]] += 1
  return pattern


class _Draw:
  """Batch of one index: prompts of the images, captions and noise seeds."""

  def __init__(self, prompts, batch_size, corruption, kind_weights):
    present = sorted({p.category for p in prompts})
    weights = [w if k in present else 0 for k, w in enumerate(kind_weights)]
    self.kinds = kind_pattern(weights, batch_size)
    self.rows = {
      k: np.array([i for i, p in enumerate(prompts) if p.category == k])
      for k in present
    }
    near = one_attribute_away(prompts)
    self.near_count = np.array([len(n) for n in near])
    self.near = np.zeros((len(near), self.near_count.max()), np.int64)
    for i, n in enumerate(near):
      self.near[i, : len(n)] = n
    self.table = grammar.batch(prompts)
    self.corruption = corruption

  def __call__(self, index: int, rng: np.random.Generator) -> dict:
    size = len(self.kinds)
    scene = np.zeros(size, np.int64)
    for category, rows in self.rows.items():
      rows_of = self.kinds == category
      scene[rows_of] = rng.choice(rows, rows_of.sum())
    neighbour = self.near[scene, rng.integers(0, self.near_count[scene])]
    wrong = rng.random(size) < self.corruption
    take = lambda x: np.asarray(x)[scene]
    return {
      "scene": jax.tree.map(take, self.table),
      "caption": np.asarray(self.table.tokens)[
        np.where(wrong, neighbour, scene)
      ],
      "seed": pipeline.seeds_of(index, size),
    }


def caption_batches(
  prompts: Sequence[grammar.Prompt],
  *,
  seed: int,
  batch_size: int,
  corruption: float,
  kind_weights: Sequence[int] = (1,) * len(grammar.KINDS),
  steps: int,
) -> grain.MapDataset:
  """Batches by step number, the same in every process and after a resume.

  Returns:
    A dataset whose element n is {"scene": PromptBatch of the images,
    "caption": int32 [B, L], "seed": uint32 [B] to render the image from}.
  """
  draw = _Draw(prompts, batch_size, corruption, kind_weights)
  indices = grain.MapDataset.range(steps).seed(seed)
  return indices.random_map(_with_index(draw))


class _DrawEdits:
  """Edits of one index, with a target image of each."""

  def __init__(self, prompts, batch_size, kind_weights):
    self.prompts = prompts
    self.kinds = kind_pattern(kind_weights, batch_size) + edits.FIRST
    self.rows = {
      k: np.array([i for i, p in enumerate(prompts) if p.category == k])
      for k in set(self.kinds.tolist())
    }

  def __call__(self, index: int, rng: np.random.Generator) -> dict:
    size = len(self.kinds)
    prompts = [self.prompts[rng.choice(self.rows[k])] for k in self.kinds]
    source, picture = edits.draw(prompts)
    tokens = [grammar.tokenize(p.text, edits=True) for p in prompts]
    return {
      "source": source, "picture": picture, "caption": np.stack(tokens),
      "seed": pipeline.seeds_of(index, size),
    }  # fmt: skip


def edit_batches(
  prompts: Sequence[grammar.Prompt],
  *,
  seed: int,
  batch_size: int,
  kind_weights: Sequence[int] = (1,) * len(grammar.EDITS),
  steps: int,
) -> grain.MapDataset:
  """As `caption_batches`, for edits.

  Returns:
    A dataset whose element n is {"source" and "picture", the answer: float32
    [B, S, S, 3], "caption": int32 [B, L], "seed": uint32 [B]}.
  """
  draw = _DrawEdits(prompts, batch_size, kind_weights)
  indices = grain.MapDataset.range(steps).seed(seed)
  return indices.random_map(_with_index(draw))


def _with_index(draw):
  def apply(index, rng):
    return draw(int(index), rng)

  return apply
