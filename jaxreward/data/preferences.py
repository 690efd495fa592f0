"""Preferences between images of one prompt, as arrays of fixed shape.

A row is a prompt with N images and, for every two of them, the probability that
the first is preferred; rows of files may also have ratings and answers per
aspect, a user, a confidence and a source image. Rows come from a task that judges
images, or from a user's files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest
from jaxreward.types import Array, ArrayLike, PromptBatch

SOURCES = ("policy", "borrowed", "render", "corrupted", "spoiled", "file")
TIES = ("drop", "half")


@flax.struct.dataclass
class Preferences:
  """Q rows of N images.

  Attributes:
    images: uint8 [M, H, W, C], each image once.
    tokens: int32 [Q, L].
    category: int32 [Q], of the prompts, see `Task.categories`; -1 if unknown.
    members: int32 [Q, N], rows of `images`; -1 where a list is shorter.
    prob: float32 [Q, N, N], probability that the image of the row is
      preferred to that of the column; NaN where unlabeled.
    score: float32 [Q, N], from which labels are derived; NaN where unknown.
    strict: float32 [Q, N], 1 for a correct image, else 0; NaN where unknown.
    source: int32 [N] or [Q, N], index into `SOURCES`; from their number on,
      generators that a file names; -1 where there is no image.
    user: int32 [Q], who labeled the row, an index into `users`; -1 where
      unknown. None if nobody is known.
    aspects: float32 [Q, N, A], ratings per aspect; NaN where unknown. None
      without aspects.
    aspect_prob: float32 [Q, N, N, A], as `prob`. None without such answers.
    confidence: float32 [Q] in [0, 1], of the answers. None if never known.
    context: int32 [Q], the row of `images` that an edit starts from; -1
      without one. None if no row has one.
    users: their names.
    aspect_names: of the A aspects.
  """

  images: ArrayLike
  tokens: ArrayLike
  category: ArrayLike
  members: ArrayLike
  prob: ArrayLike
  score: ArrayLike
  strict: ArrayLike
  source: ArrayLike
  user: ArrayLike | None = None
  aspects: ArrayLike | None = None
  aspect_prob: ArrayLike | None = None
  confidence: ArrayLike | None = None
  context: ArrayLike | None = None
  users: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
  aspect_names: tuple[str, ...] = flax.struct.field(
    pytree_node=False, default=()
  )


@flax.struct.dataclass
class Details:
  """Labels that only some files have, of R rows of K images and A aspects.

  A field is None if no row of a run has it.

  Attributes:
    mask: bool [R, K], False for an image that a shorter list lacks.
    aspect_ratings: float32 [R, K, A]; NaN where unknown. Levels are whole
      numbers from 0 on.
    aspect_prob: float32 [R, K, K, A], as `Preferences.prob`.
    user: int32 [R], number of who answered; -1 where unknown.
    confidence: float32 [R] in [0, 1], of the row's answers; 1 where unknown.
    context: float32 [R, H, W, C] in [0, 1], the image that an edit starts
      from; NaN where there is none.
    source: int32 [R, K], of the images, see `Preferences`.
    keys: random keys [R], for losses that sample.
  """

  mask: ArrayLike | None = None
  aspect_ratings: ArrayLike | None = None
  aspect_prob: ArrayLike | None = None
  user: ArrayLike | None = None
  confidence: ArrayLike | None = None
  context: ArrayLike | None = None
  source: ArrayLike | None = None
  keys: ArrayLike | None = None


@flax.struct.dataclass
class PreferenceBatch:
  """R rows of K images, what one step of training reads.

  Attributes:
    images: float32 [R, K, H, W, C] in [0, 1].
    tokens: int32 [R, L].
    prob: float32 [R, K, K], see `Preferences`.
    rating: float32 [R, K], the overall rating; NaN where unknown.
    details: see `Details`.
  """

  images: ArrayLike
  tokens: ArrayLike
  prob: ArrayLike
  rating: ArrayLike
  details: Details = Details()


def preference_probabilities(
  key: Array,
  score: Float[ArrayLike, "Q N"],
  *,
  label_noise: float = 0.0,
  margin: float = 0.02,
  ties: str = "drop",
) -> Float[Array, "Q N N"]:
  """Preference labels from scores, some of them flipped.

  Args:
    key: of the label noise; a pair's label is flipped for the whole run.
    score: NaN for an image that could not be judged.
    label_noise: share of flipped labels, below one half.
    margin: scores that differ by less are a tie; equal ones always are.
    ties: "drop" leaves ties unlabeled; "half" labels them one half.

  Returns:
    Probabilities; p[i, j] + p[j, i] = 1 where both are labeled.
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


def choose_rows(
  prompts: Sequence[Prompt], rows: int, seed: int
) -> list[Prompt]:
  """Prompts, repeated if needed: half per category, half per prompt."""
  order = np.random.default_rng(seed).permutation(len(prompts))
  by_category: dict[int, list[Prompt]] = {}
  for index in order:
    by_category.setdefault(prompts[index].category, []).append(prompts[index])
  groups = [by_category[k] for k in sorted(by_category)]
  pick = lambda items, i: items[i % len(items)]
  even = [
    pick(pick(groups, i), i // len(groups)) for i in range((rows + 1) // 2)
  ]
  return even + [prompts[pick(order, i)] for i in range(rows // 2)]


def row_ids(prompts: PromptBatch) -> np.ndarray:
  """uint32 [Q]: an id per row, so that rows of one prompt differ."""
  counts: dict[int, int] = {}
  ids = np.asarray(prompts.ids).copy()
  for row, prompt_id in enumerate(ids.tolist()):
    count = counts.get(prompt_id, 0)
    counts[prompt_id] = count + 1
    ids[row] = (prompt_id + count * 0x9E3779B9) % 2**32
  return ids


def as_float(images: ArrayLike) -> Array:
  """uint8 images as float32 in [0, 1]."""
  return jnp.asarray(images, jnp.float32) / 255.0


def as_bytes(images: ArrayLike) -> Array:
  """Images in [0, 1] as uint8."""
  return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def unlabelled(
  images: ArrayLike,
  prompts: PromptBatch,
  members: ArrayLike,
  *,
  counts: Mapping[str, int],
  dense: Array,
  strict: Array,
  strict_weight: float,
  aspects: Array,
  aspect_names: tuple[str, ...],
) -> Preferences:
  """Rows that a task has drawn and judged; `prob` is NaN until labels fill it.

  Args:
    images: uint8 [M, H, W, 3] of all rows.
    prompts: Q prompts.
    members: [Q, N], the images of each row.
    counts: {one of `SOURCES`: images of each row}, in the members' order.
    dense: graded verdicts [Q, N].
    strict: strict verdicts [Q, N].
    strict_weight: w; the score is (1 - w) dense + w strict.
    aspects: [Q, N, A].
    aspect_names: A names.
  """
  members = jnp.asarray(members)
  places = [SOURCES.index(name) for name in counts]
  rows, n = members.shape
  return Preferences(
    images=jnp.asarray(images),
    tokens=jnp.asarray(prompts.tokens),
    category=jnp.asarray(prompts.category),
    members=members,
    prob=jnp.full((rows, n, n), jnp.nan),
    score=(1 - strict_weight) * dense + strict_weight * strict,
    strict=strict,
    source=jnp.asarray(np.repeat(places, list(counts.values()))),
    aspects=aspects,
    aspect_names=aspect_names,
  )


def rows_between(
  preferences: Preferences, start: int, stop: int, *, per_row: int
) -> Preferences:
  """The rows start ... stop - 1 and their images, `per_row` for each."""
  part = take_rows(preferences, slice(start, stop))
  context = part.context
  return dataclasses.replace(
    part,
    context=None if context is None else context - start * per_row,
    images=preferences.images[start * per_row : stop * per_row],
    members=part.members - start * per_row,
  )


def beside_reference(rows: Preferences) -> Preferences:
  """Drawn rows whose last render is their context and no candidate."""
  source = np.asarray(rows.source)
  place = np.flatnonzero(source == SOURCES.index("render"))[-1]
  others = np.delete(np.arange(len(source)), place)
  columns = ("members", "score", "strict", "aspects")
  return dataclasses.replace(
    rows,
    context=rows.members[:, place],
    prob=rows.prob[:, others][:, :, others],
    source=rows.source[others],
    **{name: getattr(rows, name)[:, others] for name in columns},
  )


def prompt_numbers(preferences: Preferences) -> Int[np.ndarray, "Q"]:
  """The number of each row's prompt, equal for rows of equal tokens."""
  tokens = np.asarray(preferences.tokens)
  return np.unique(tokens, axis=0, return_inverse=True)[1].reshape(-1)


def take_rows(
  preferences: Preferences, index: ArrayLike | slice
) -> Preferences:
  """Some rows, in the order of `index`; their images keep their numbers."""
  names = (
    "tokens", "category", "members", "prob", "score", "strict", "user",
    "aspects", "aspect_prob", "confidence", "context",
  )  # fmt: skip
  parts = {
    name: array[index]
    for name in names
    if (array := getattr(preferences, name)) is not None
  }
  if jnp.ndim(preferences.source) == 2:
    parts["source"] = jnp.asarray(preferences.source)[index]
  return dataclasses.replace(preferences, **parts)


def draw_batch(
  preferences: Preferences, key: Array, *, rows: int, group_size: int
) -> PreferenceBatch:
  """A batch as a function of its key; row i depends only on the key and i.

  Args:
    preferences: Q rows of N images.
    key: scalar key of this step.
    rows: R, drawn with replacement.
    group_size: K of each row's N images, drawn without replacement.
  """
  count, n = preferences.members.shape

  def draw(i):
    k = jax.random.fold_in(key, i)
    row = jax.random.randint(k, (), 0, count)
    columns = jax.random.permutation(jax.random.fold_in(k, 1), n)
    return row, columns[:group_size], jax.random.fold_in(k, 2)

  row, columns, keys = jax.vmap(draw)(jnp.arange(rows))
  of_image = lambda x: x[row[:, None], columns]
  prob = preferences.prob[
    row[:, None, None], columns[:, :, None], columns[:, None, :]
  ]
  user, aspects = preferences.user, preferences.aspects
  context = preferences.context
  details = Details(  # tasks know nothing else of their rows
    user=None if user is None else jnp.asarray(user)[row],
    aspect_ratings=None if aspects is None else of_image(jnp.asarray(aspects)),
    source=jnp.asarray(preferences.source)[columns],
    context=(
      None if context is None else as_float(preferences.images[context[row]])
    ),
    keys=keys,
  )
  images = as_float(preferences.images[of_image(preferences.members)])
  score = of_image(preferences.score)
  return PreferenceBatch(images, preferences.tokens[row], prob, score, details)


def keep_first(batch: PreferenceBatch, rows: int) -> PreferenceBatch:
  """The batch with labels and ratings of its first rows alone."""
  real = jnp.arange(jnp.shape(batch.rating)[0]) < rows

  def masked(x: ArrayLike) -> Array:
    return jnp.where(real.reshape(-1, *[1] * (jnp.ndim(x) - 1)), x, jnp.nan)

  aspects = batch.details.aspect_ratings
  details = dataclasses.replace(
    batch.details, aspect_ratings=None if aspects is None else masked(aspects)
  )
  return dataclasses.replace(
    batch,
    prob=masked(batch.prob),
    rating=masked(batch.rating),
    details=details,
  )


def some_rows(rows: int, group: int, aspects: int = 2) -> PreferenceBatch:
  """A batch of zeros, its images and tokens empty."""
  return PreferenceBatch(
    images=jnp.zeros((rows, group, 0, 0, 3)),
    tokens=jnp.zeros((rows, 0), jnp.int32),
    prob=jnp.zeros((rows, group, group)),
    rating=jnp.zeros((rows, group)),
    details=Details(
      user=jnp.zeros((rows,), jnp.int32),
      mask=jnp.ones((rows, group), bool),
      aspect_ratings=jnp.zeros((rows, group, aspects)),
      aspect_prob=jnp.zeros((rows, group, group, aspects)),
      confidence=jnp.ones((rows,)),
      source=jnp.zeros((rows, group), jnp.int32),
      keys=jax.random.split(jax.random.key(0), rows),
    ),
  )


def separate_pairs(
  preferences: Preferences, seed: int = 0, source: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Labeled pairs of which no two share an image.

  Pairs that share images are not independent; an interval that assumes they
  are is too narrow.

  Args:
    preferences: Q rows.
    seed: of the pairing.
    source: one of `SOURCES`, to pair only its images.

  Returns:
    rows [K] and columns [K, 2] in them, the preferred image first.
  """
  prob = np.asarray(preferences.prob)
  members = np.asarray(preferences.members)
  sources = np.asarray(preferences.source)
  places = np.arange(members.shape[1])
  if source is not None and sources.ndim == 1:
    places = np.flatnonzero(sources == SOURCES.index(source))
  elif source is not None:  # of files, which have no source of a task
    places = places[:0]
  generator = np.random.default_rng(seed)
  used: set[int] = set()
  pairs = []
  for row in range(members.shape[0]):
    order = generator.permutation(places)
    order = [int(i) for i in order if members[row, i] not in used]
    order = [i for i in order if members[row, i] >= 0]
    for i, j in zip(order[::2], order[1::2], strict=False):
      p = prob[row, i, j]
      if np.isfinite(p) and p != 0.5:
        pairs.append((row, i, j) if p > 0.5 else (row, j, i))
        used |= {int(members[row, i]), int(members[row, j])}
  table = np.array(pairs, np.int64).reshape(-1, 3)
  return table[:, 0], table[:, 1:]
