"""The scenes, and the edits of scenes, as tasks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.tasks.contract import Task, out_of_range
from jaxreward.tasks.scenes import (
  captions,
  datasets,
  detect,
  edits,
  facts,
  grammar,
  judge,
  preferences,
  questions,
  render,
  rewards,
)
from jaxreward.types import Array, ArrayLike, PromptBatch

_detect = jax.jit(detect.detect)


def measure(
  images: Array, pixels: ArrayLike, prompts: PromptBatch
) -> dict[str, Array]:
  """Measures of the detector on [P, G] images, each value [P, G].

  Images that are not finite are judged as black.
  """
  p, g = images.shape[:2]
  flat = images.reshape(p * g, *images.shape[2:])
  usable = jnp.isfinite(flat).all((1, 2, 3), keepdims=True)
  flat = jnp.where(usable, flat, 0.0)
  judgement = judge.look(flat, judge.repeat(prompts, g))
  measures = judgement.scores() | {"texture": judgement.detection.texture}
  shaped = {k: v.reshape(p, g) for k, v in measures.items()}
  return shaped | out_of_range(images, pixels, prompts)


def describe(images: ArrayLike) -> list[str]:
  """The objects of each image, left to right."""
  return detect.describe(_detect(images))


def _own(split: str | None) -> tuple[grammar.Prompt, ...]:
  return grammar.all_prompts() if split is None else grammar.prompts(split)


def _own_edits(split: str | None) -> tuple[grammar.Prompt, ...]:
  return edits.all_prompts() if split is None else edits.prompts(split)


def _pretraining_edits(prompts: Any, *, corruption: float, **options: Any):
  del corruption  # an instruction and its answer always agree
  return captions.edit_batches(prompts, **options)


SCENES = Task(
  "scenes",
  grammar.CATEGORIES,
  grammar.parse,
  measure=measure,
  rows=grammar.batch,
  own=_own,
  has_pictures=False,
  verdict=("dense", "strict"),
  describe=describe,
  tokenize=grammar.tokenize,
  language="scenes",
  split_of=grammar.split_of,
  fact_of=facts.fact_of,
  reword=grammar.reword,
  render=render.render_prompts,
  draw=datasets.images,
  drawn_side=render.SIZE,
  rewards=rewards.SCENES,
  judge="detector",
  pretraining=captions.caption_batches,
  preferences=preferences.collect,
  questions=questions,
)

EDITS = Task(
  "edits",
  grammar.EDIT_CATEGORIES,
  grammar.parse,
  measure=measure,
  rows=grammar.batch,
  attach=edits.attach,
  own=_own_edits,
  has_pictures=True,
  reads_files=False,
  verdict=("dense", "strict", *judge.PARTS),
  side=render.SIZE,
  describe=describe,
  language="scenes",
  rewards=rewards.EDITS,
  judge="detector",
  pretraining=_pretraining_edits,
)
