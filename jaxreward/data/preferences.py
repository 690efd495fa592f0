"""Preferences between pictures of one prompt, as arrays of fixed shape.

A row is a prompt with N pictures and the probability, for each two of them,
that the first is preferred. Rows come from a task that judges pictures, or from
a user's file of pairs, where N is 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest
from jaxreward.types import Array, ArrayLike, PromptBatch

SOURCES = ("policy", "borrowed", "render", "corrupted", "spoiled", "file")
TIES = ("drop", "half")


@flax.struct.dataclass
class Preferences:
  """Q rows of N pictures.

  Attributes:
    images: uint8 [M, H, W, C], each picture once.
    tokens: int32 [Q, L].
    category: int32 [Q], of the prompts, see `Task.categories`; -1 if unknown.
    members: int32 [Q, N], rows of `images`.
    prob: float32 [Q, N, N], probability that the picture of the row is
      preferred to that of the column; NaN where nobody said.
    score: float32 [Q, N], what the answers come from; NaN where unknown.
    strict: float32 [Q, N], 1 for a right picture, else 0; NaN where unknown.
    source: int32 [N], index into `SOURCES`.
  """

  images: ArrayLike
  tokens: ArrayLike
  category: ArrayLike
  members: ArrayLike
  prob: ArrayLike
  score: ArrayLike
  strict: ArrayLike
  source: ArrayLike


def preference_probabilities(
  key: Array,
  score: Float[ArrayLike, "Q N"],
  *,
  label_noise: float = 0.0,
  margin: float = 0.02,
  ties: str = "drop",
) -> Float[Array, "Q N N"]:
  """Who is preferred to whom: the larger score, sometimes misread.

  Args:
    key: of the misreadings; a pair is misread once and for all.
    score: NaN for a picture that could not be judged.
    label_noise: share of answers that are turned round, below one half.
    margin: scores that differ by less are a tie; equal ones always are.
    ties: "drop" leaves ties unanswered; "half" answers one half.

  Returns:
    Probabilities; p[i, j] + p[j, i] = 1 where both are answered.
  """
  if not 0.0 <= label_noise < 0.5:
    raise UserError(
      f"train_reward.label_noise={label_noise}: it must lie in [0, 0.5)"
    )
  if ties not in TIES:
    raise UserError(
      f'train_reward.ties="{ties}" is not known{nearest(ties, TIES)}'
    )
  rows, n = jnp.shape(score)
  difference = jnp.asarray(score)[:, :, None] - jnp.asarray(score)[:, None, :]
  flip = jnp.triu(jax.random.uniform(key, (rows, n, n)) < label_noise, 1)
  flip = flip | flip.swapaxes(1, 2)
  answer = jnp.where(flip, difference < 0, difference > 0)
  tie = 0.5 if ties == "half" else jnp.nan
  is_tie = (jnp.abs(difference) < margin) | (difference == 0)
  prob = jnp.where(is_tie, tie, answer)
  prob = jnp.where(jnp.isfinite(difference), prob, jnp.nan)
  return jnp.where(jnp.eye(n, dtype=bool), jnp.nan, prob)


def choose_rows(chosen: Sequence[Prompt], rows: int, seed: int) -> list[Prompt]:
  """Prompts, repeated if need be: half evenly over categories, half over prompts."""
  order = np.random.default_rng(seed).permutation(len(chosen))
  by_category: dict[int, list[Prompt]] = {}
  for index in order:
    by_category.setdefault(chosen[index].category, []).append(chosen[index])
  each = [by_category[k] for k in sorted(by_category)]
  turn = lambda some, i: some[i % len(some)]
  even = [turn(turn(each, i), i // len(each)) for i in range((rows + 1) // 2)]
  return even + [chosen[turn(order, i)] for i in range(rows // 2)]


def row_ids(prompts: PromptBatch) -> np.ndarray:
  """uint32 [Q]: a number per row, so that rows of one prompt differ."""
  seen: dict[int, int] = {}
  ids = np.asarray(prompts.ids).copy()
  for row, prompt_id in enumerate(ids.tolist()):
    count = seen.get(prompt_id, 0)
    seen[prompt_id] = count + 1
    ids[row] = (prompt_id + count * 0x9E3779B9) % 2**32
  return ids


def as_float(images: ArrayLike) -> Array:
  """uint8 pictures as float32 in [0, 1]."""
  return jnp.asarray(images, jnp.float32) / 255.0


def as_bytes(images: ArrayLike) -> Array:
  """Pictures in [0, 1] as uint8."""
  return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def rows_between(
  preferences: Preferences, start: int, stop: int, *, own: int
) -> Preferences:
  """The rows start ... stop - 1 and their pictures, `own` to a row."""
  cut = lambda x: x[start:stop]
  return dataclasses.replace(
    preferences,
    images=preferences.images[start * own : stop * own],
    tokens=cut(preferences.tokens),
    category=cut(preferences.category),
    members=cut(preferences.members) - start * own,
    prob=cut(preferences.prob),
    score=cut(preferences.score),
    strict=cut(preferences.strict),
  )


def draw_batch(
  preferences: Preferences, key: Array, *, rows: int, pictures: int
):
  """A batch as a function of its key; row i depends on the key and i alone.

  Args:
    preferences: Q rows of N pictures.
    key: scalar key of this step.
    rows: R, drawn with replacement.
    pictures: K of each row's N, drawn without.

  Returns:
    images float32 [R, K, H, W, C], tokens [R, L], prob [R, K, K], score
    [R, K].
  """
  count, n = preferences.members.shape

  def draw(i):
    k = jax.random.fold_in(key, i)
    row = jax.random.randint(k, (), 0, count)
    return row, jax.random.permutation(jax.random.fold_in(k, 1), n)[:pictures]

  row, place = jax.vmap(draw)(jnp.arange(rows))
  members = preferences.members[row[:, None], place]
  prob = preferences.prob[
    row[:, None, None], place[:, :, None], place[:, None, :]
  ]
  images = as_float(preferences.images[members])
  score = preferences.score[row[:, None], place]
  return images, preferences.tokens[row], prob, score


def separate_pairs(
  preferences: Preferences, seed: int = 0, source: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Answered pairs of which no two share a picture.

  Pairs that share pictures are not independent, and an interval that takes
  them as such is too narrow.

  Args:
    preferences: Q rows.
    seed: of the pairing.
    source: one of `SOURCES`, to pair its pictures alone.

  Returns:
    row [K] and places [K, 2] in it, the preferred picture first.
  """
  prob = np.asarray(preferences.prob)
  members = np.asarray(preferences.members)
  sources = np.asarray(preferences.source)
  places = np.arange(len(sources))
  if source is not None:
    places = np.flatnonzero(sources == SOURCES.index(source))
  generator = np.random.default_rng(seed)
  used: set[int] = set()
  found = []
  for row in range(members.shape[0]):
    order = generator.permutation(places)
    order = [int(i) for i in order if members[row, i] not in used]
    for i, j in zip(order[::2], order[1::2], strict=False):
      p = prob[row, i, j]
      if np.isfinite(p) and p != 0.5:
        found.append((row, i, j) if p > 0.5 else (row, j, i))
        used |= {int(members[row, i]), int(members[row, j])}
  table = np.array(found, np.int64).reshape(-1, 3)
  return table[:, 0], table[:, 1:]
