"""Moving scenes as a task."""

from __future__ import annotations

from jaxreward.tasks.contract import Task, out_of_range
from jaxreward.tasks.motion import (
  captions,
  judge,
  paths,
  prompts,
  render,
  rewards,
)
from jaxreward.types import Array, ArrayLike, PromptBatch


def measure(
  images: Array, pixels: ArrayLike, batch: PromptBatch
) -> dict[str, Array]:
  """Verdicts on [P, G] strips of frames, each value [P, G]."""
  parts = judge.groups(judge.frames_of(images), batch)
  return parts | out_of_range(images, pixels, batch)


MOTION = Task(
  "motion",
  prompts.CATEGORIES,
  prompts.parse,
  measure=measure,
  rows=prompts.batch,
  own=prompts.prompts,
  has_pictures=False,
  verdict=judge.PARTS,
  side=paths.SIDE,
  frames=paths.FRAMES,
  describe=judge.describe,
  tokenize=prompts.tokenize,
  language="motion",
  split_of=prompts.split_of,
  render=render.render_prompts,
  rewards=rewards.REGISTRY,
  judge="moves",
  pretraining=captions.caption_batches,
)
