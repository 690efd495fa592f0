"""Preferences of simulated annotators on portraits.

Each row holds the policy's samples, drawings of its prompt, drawings with one
attribute wrong, corrupted ones, and samples of other rows. The judge's graded
score is common to all users; the last aspect, warm colours, is liked by some
and not by others (`data.tastes`), and labels are flipped at rate
`train_reward.label_noise`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward import rng
from jaxreward.data import tastes
from jaxreward.data.preferences import (
  Preferences,
  as_bytes,
  as_float,
  row_ids,
  unlabelled,
)
from jaxreward.numerics import in_chunks
from jaxreward.tasks.portraits import captions, edits, judge, prompts, render
from jaxreward.types import Array, ArrayLike, PromptBatch

ASPECTS = ("attributes", "drawing", "warmth")
WAYS = ("noise", "squares", "shade", "ghost")


def spoil(
  generator: np.random.Generator,
  images: Float[np.ndarray, "B S S 3"],
  others: Float[np.ndarray, "B S S 3"],
) -> np.ndarray:
  """Images corrupted in turn by noise, squares, shade or another image."""
  results = np.array(images)
  for row, (image, other) in enumerate(zip(images, others, strict=True)):
    amount = generator.uniform(0.3, 1.0)
    way = WAYS[row % len(WAYS)]
    if way == "noise":
      image = image + 0.25 * amount * generator.standard_normal(image.shape)
    elif way == "squares":
      image = edits.coarse(image[None])[0]
    elif way == "shade":
      image = image * (1 - 0.6 * amount)
    else:
      image = image + 0.5 * amount * (other - image)
    results[row] = np.clip(image, 0, 1)
  return results


@functools.partial(jax.jit, static_argnames="at_once")
def _judged(
  images: ArrayLike, batch: PromptBatch, at_once: int = 64
) -> dict[str, Array]:
  """Verdicts and warmth of uint8 images [Q, N, H, W, 3], each [Q, N]."""
  q, n = images.shape[:2]
  flat = jnp.asarray(images).reshape(q * n, *images.shape[2:])
  extras = jax.tree.map(
    lambda x: jnp.repeat(jnp.asarray(x), n, 0), batch.extras
  )

  def look(chunk):
    pixels, targets = chunk
    pixels = as_float(pixels)
    parts = judge.look(pixels, dataclasses.replace(batch, extras=targets))
    names = ("dense", "strict", "drawn", "read")
    return {k: parts[k] for k in names} | {
      "warmth": tastes.warmth(pixels.mean((-3, -2)))
    }

  parts = in_chunks(look, (flat, extras), at_once)
  return {k: x.reshape(q, n) for k, x in parts.items()}


def collect(
  key: Array,
  chosen: Sequence[prompts.Prompt],
  samples: ArrayLike,
  *,
  renders: int = 2,
  spoiled: int = 3,
  borrowed: int = 2,
  strict_weight: float = 0.5,
) -> Preferences:
  """Images of Q prompts with scores; `prob` is NaN until labels fill it.

  Args:
    key: scalar key of the drawings.
    chosen: Q prompts, training prompts first.
    samples: uint8 [Q, S, H, W, 3], the policy's images.
    renders: per row, right ones and as many wrong ones.
    spoiled: per row, see `spoil`.
    borrowed: per row, the policy's images of the rows that follow on its side
      of the split.
    strict_weight: w; the score is (1 - w) dense + w strict.
  """
  batch = prompts.batch(chosen)
  count = len(chosen)
  seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, 9)))
  generator = np.random.default_rng(seed)
  every = np.repeat(np.arange(count), renders)
  rows = jax.tree.map(lambda x: np.asarray(x)[every], batch)
  ids, number = row_ids(batch)[every], np.arange(len(every)) % renders
  keys = rng.sample_keys(key, jnp.asarray(ids), jnp.asarray(number))
  draw = jax.jit(render.render_prompts)
  right, wrong = (
    np.asarray(draw(keys, b)).reshape(count, renders, *np.shape(samples)[2:])
    for b in (rows, captions.wrong(rows, 1.0, generator))
  )
  turns = np.arange(count * spoiled)
  bad = spoil(
    generator, right[turns // spoiled, turns % renders],
    np.roll(right, 1, 0)[turns // spoiled, turns % renders],
  ).reshape(count, spoiled, *np.shape(samples)[2:])  # fmt: skip
  drawings = as_bytes(jnp.asarray(np.concatenate([right, wrong, bad], 1)))
  images = np.concatenate([np.asarray(samples), np.asarray(drawings)], 1)
  per_row, samples_each = images.shape[1], np.shape(samples)[1]
  members = np.arange(count * per_row).reshape(count, per_row)
  step = 1 + np.arange(borrowed)
  is_train = np.array([p.split == "train" for p in chosen])
  lenders = np.zeros((count, borrowed), int)
  for side in (np.flatnonzero(is_train), np.flatnonzero(~is_train)):
    places = np.arange(len(side))[:, None] + step
    lenders[side] = side[places % max(len(side), 1)]
  members = np.concatenate([members, members[lenders, step % samples_each]], 1)
  flat = images.reshape(count * per_row, *images.shape[2:])
  parts = _judged(flat[members], batch.plain)
  aspects = jnp.stack([parts["read"], parts["drawn"], parts["warmth"]], -1)
  counts = dict(
    policy=samples_each, render=renders, corrupted=renders, spoiled=spoiled,
    borrowed=borrowed,
  )  # fmt: skip
  return unlabelled(
    flat, batch, members, counts=counts, dense=parts["dense"],
    strict=parts["strict"], strict_weight=strict_weight, aspects=aspects,
    aspect_names=ASPECTS,
  )  # fmt: skip
