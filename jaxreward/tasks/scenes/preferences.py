"""Preferences on scenes: policy samples and renders, labeled by the detector.

Each row holds the policy's images, renders of its prompt and of similar
prompts, and corrupted images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import rng
from jaxreward.data import tastes
from jaxreward.data.preferences import (
  Preferences,
  as_bytes,
  as_float,
  row_ids,
  unlabelled,
)
from jaxreward.errors import UserError
from jaxreward.numerics import in_chunks
from jaxreward.tasks.scenes import detect, grammar, negatives, render
from jaxreward.types import Array, ArrayLike

ASPECTS = ("items", "background", "relation", "warmth")


def neighbours(prompts: Sequence[grammar.Prompt]) -> list[np.ndarray]:
  """For each prompt, the most similar other prompts of its split.

  Count, colour and shape of the items and the relation are compared, and the
  rows with the fewest differences are the neighbours. Training prompts have
  training neighbours, held-out prompts held-out ones.
  """
  features = np.full((len(prompts), 7), -9, np.int64)
  for row, prompt in enumerate(prompts):
    items = [value for item in prompt.items for value in item]
    features[row, : len(items)] = items
    features[row, 6] = prompt.relation
  names = np.array([grammar.combination(p.items, p.relation) for p in prompts])
  is_train = np.array([p.split == "train" for p in prompts])
  neighbours_of = []
  for row in range(len(prompts)):
    distance = (features != features[row]).sum(1)
    distance[(names == names[row]) | (is_train != is_train[row])] = 99
    if distance.min() == 99:
      raise UserError(
        f'no other prompt to set beside "{prompts[row].text}": preferences need'
        " prompts of at least two meanings on each side of the split"
      )
    neighbours_of.append(np.flatnonzero(distance == distance.min()))
  return neighbours_of


def _draw(key, prompts, others, ids, samples, spoiled):
  """Renders of prompts, of their neighbours, and corrupted images, as uint8.

  Args:
    key: scalar key.
    prompts: Q prompts.
    others: int32 [Q, R], rows of neighbouring prompts.
    ids: uint32 [Q], an id per row.
    samples: uint8 [Q, S, H, W, 3].
    spoiled: corrupted images per row.
  """
  rows, renders = others.shape

  def keys(stream, count):
    index = jnp.arange(rows * count)
    return rng.sample_keys(
      jax.random.fold_in(key, stream), ids[index // count], index % count
    )

  owner = jnp.repeat(jnp.arange(rows), renders)
  right, wrong = (
    render.render_prompts(keys(i, renders), _take(prompts, index))
    for i, index in enumerate((owner, others.reshape(-1)))
  )
  shape = right.shape[1:]
  right, wrong = (x.reshape(rows, renders, *shape) for x in (right, wrong))
  if not spoiled:  # there may be no render to corrupt
    return as_bytes(jnp.concatenate([right, wrong], 1))
  # Renders and samples alternate; each corruption is used equally often.
  turn = jnp.arange(rows * spoiled)
  row, corruption = turn // spoiled, turn % len(negatives.WAYS)
  base = jnp.stack([right[:, 0], as_float(samples[:, 0])], 1)
  base = base[row, turn // len(negatives.WAYS) % 2]
  worse = negatives.spoil(
    keys(2, spoiled), base, wrong[row, turn % renders], corruption
  )
  worse = worse.reshape(rows, spoiled, *shape)
  return as_bytes(jnp.concatenate([right, wrong, worse], 1))


def _take(tree, index):
  return jax.tree.map(lambda x: jnp.asarray(x)[index], tree)


def detect_all(images: Array, at_once: int = 256) -> detect.Detection:
  """Detection in uint8 images [M, H, W, 3], in chunks."""
  return in_chunks(lambda x: detect.detect(as_float(x)), images, at_once)


@functools.partial(jax.jit, static_argnames="spoiled")
def _images(key, prompts, ids, samples, rendered, lenders, spoiled):
  """(images [Q, K, H, W, 3], members, aspects [Q, N, A], dense, strict)."""
  rows = ids.shape[0]
  renders = _draw(key, prompts, rendered, ids, samples, spoiled)
  images = jnp.concatenate([samples, renders], 1)
  per_row = images.shape[1]
  members = jnp.arange(rows * per_row).reshape(rows, per_row)
  borrowed = lenders * per_row + jnp.arange(lenders.shape[1]) % samples.shape[1]
  members = jnp.concatenate([members, borrowed], 1)
  flat = images.reshape(rows * per_row, *images.shape[2:])
  detections = _take(detect_all(flat), members.reshape(-1))
  requests = _take(prompts, jnp.repeat(jnp.arange(rows), members.shape[1]))
  verdict = detect.judge(detections, requests)
  means = as_float(flat).mean((1, 2))[members.reshape(-1)]
  warmth = tastes.warmth(means)
  columns = (verdict.dense, verdict.clean, verdict.relation, warmth)
  aspects = jnp.stack(columns, -1).reshape(*members.shape, len(ASPECTS))
  shaped = (x.reshape(members.shape) for x in (verdict.dense, verdict.strict))
  return flat, members, aspects, *shaped


def collect(
  key: Array,
  prompts: Sequence[grammar.Prompt],
  samples: ArrayLike,
  *,
  renders: int = 2,
  spoiled: int = 3,
  borrowed: int = 2,
  strict_weight: float = 0.5,
) -> Preferences:
  """Images of Q prompts with scores; `prob` is NaN until labels fill it.

  Each row holds the policy's samples, renders of its prompt, renders of
  neighbouring prompts, corrupted images, and samples of neighbouring prompts'
  rows.

  Args:
    key: scalar key of the renders and the choice of neighbours.
    chosen: Q prompts, training prompts first.
    samples: uint8 [Q, S, H, W, 3], the policy's images.
    renders: per row, of the prompt and as many of its neighbours.
    spoiled: per row, see `negatives`.
    borrowed: per row, from neighbouring rows.
    strict_weight: w; the score is (1 - w) dense + w strict.
  """
  batch = grammar.batch(prompts)
  seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, 9)))
  generator = np.random.default_rng(seed)
  near = neighbours(prompts)
  draw = lambda n: np.stack([generator.choice(x, n) for x in near])
  rendered, lenders = draw(renders).astype(int), draw(borrowed).astype(int)
  images, members, aspects, dense, strict = _images(
    key, batch, row_ids(batch), jnp.asarray(samples), rendered, lenders,
    spoiled=spoiled,
  )  # fmt: skip
  counts = dict(
    policy=np.shape(samples)[1], render=renders, corrupted=renders,
    spoiled=spoiled, borrowed=borrowed,
  )  # fmt: skip
  return unlabelled(
    images, batch, members, counts=counts, dense=dense, strict=strict,
    strict_weight=strict_weight, aspects=aspects, aspect_names=ASPECTS,
  )  # fmt: skip
