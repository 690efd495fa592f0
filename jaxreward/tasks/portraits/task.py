"""Portraits, and edits of portraits, as tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import rng
from jaxreward.data.preferences import as_bytes
from jaxreward.tasks.contract import Task, out_of_range
from jaxreward.tasks.portraits import (
  attributes,
  captions,
  edits,
  judge,
  preferences,
  prompts,
  questions,
  render,
  rewards,
  words,
)
from jaxreward.types import Array, ArrayLike, PromptBatch

_PARTS = ("dense", "strict", "drawn", "people", "told_apart")
_OF_EDITS = (
  *_PARTS, "execution", "preservation", "same_person", "worded", "done",
  "untouched", "recognised",
)  # fmt: skip


def _measure(*names: str):
  """The measure of a task: some parts of the verdict."""

  def measure(
    images: Array, pixels: ArrayLike, batch: PromptBatch
  ) -> dict[str, Array]:
    """Verdicts on [P, G] images, each value [P, G]."""
    parts = judge.groups(images, batch)
    return {n: parts[n] for n in names} | out_of_range(images, pixels, batch)

  return measure


@jax.jit
def _render(key: Array, ids: ArrayLike, batch: PromptBatch) -> Array:
  number = jnp.zeros(jnp.shape(ids), jnp.uint32)
  keys = rng.sample_keys(key, jnp.asarray(ids), number)
  return as_bytes(render.render_prompts(keys, batch))


def draw(
  key: Array, batch: PromptBatch, *, with_worse: bool = False
) -> np.ndarray:
  """uint8 [P, 1, H, W, 3], images that satisfy the prompts.

  Args:
    key: scalar key; an image depends on it and on the prompt's id.
    batch: P prompts.
    with_worse: adds the same picture with one requested attribute wrong; the
      result is [P, 2, H, W, 3].
  """
  batches = [batch]
  if with_worse:
    seed = np.asarray(jax.random.key_data(key))
    batches.append(captions.wrong(batch, 1.0, np.random.default_rng(seed)))
  members = [_render(key, batch.ids, rows) for rows in batches]
  return np.stack(jax.device_get(members), 1)


# As in NOTICE.
CREDITS = (
  'The portraits are a remix of "[Personas by'
  ' Draftbit](https://personas.draftbit.com/)" by'
  " [Draftbit](https://draftbit.com), licensed under [CC BY"
  " 4.0](https://creativecommons.org/licenses/by/4.0/), in the version of"
  " [DiceBear](https://www.dicebear.com): components are drawn one by one, in other"
  " colours, at 48 pixels."
)

PORTRAITS = Task(
  "portraits",
  prompts.CATEGORIES,
  prompts.parse,
  measure=_measure(*_PARTS, "read"),
  rows=prompts.batch,
  own=prompts.prompts,
  has_pictures=False,
  verdict=_PARTS,
  side=attributes.SIDE,
  describe=judge.describe,
  tokenize=words.tokenize,
  language="portraits",
  split_of=prompts.split_of,
  reword=prompts.reword,
  render=render.render_prompts,
  draw=draw,
  drawn_side=attributes.SIDE,
  rewards=rewards.REGISTRY,
  judge="attributes",
  pretraining=captions.caption_batches,
  preferences=preferences.collect,
  questions=questions,
  credits=CREDITS,
)

EDITS = Task(
  "portrait_edits",
  prompts.EDIT_CATEGORIES,
  prompts.parse,
  measure=_measure(*_OF_EDITS, "read"),
  rows=prompts.batch,
  attach=edits.attach,
  controls=tuple(edits.CONTROLS),
  own=edits.prompts,
  has_pictures=True,
  reads_files=False,
  verdict=_OF_EDITS,
  side=attributes.SIDE,
  describe=judge.describe,
  language="portraits",
  draw=draw,
  drawn_side=attributes.SIDE,
  rewards=rewards.EDITS,
  judge="attributes",
  pretraining=captions.edit_batches,
  strips=edits.strips,
  strip_measure="recognised",
  credits=CREDITS,
)
