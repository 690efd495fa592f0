"""Preferences between pictures of one prompt, as arrays of fixed shape.

A row is a prompt with N pictures and the probability, for each two of them,
that the first is preferred. Rows come from the scenes (samples of a policy and
renders, judged by the detector) or from a user's file of pairs, where N is 2.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward import rng
from jaxreward.data import negatives
from jaxreward.data.scenes import detect, grammar, render
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
    kind: int32 [Q], index into `grammar.KINDS`.
    members: int32 [Q, N], rows of `images`.
    prob: float32 [Q, N, N], probability that the picture of the row is
      preferred to that of the column; NaN where nobody said.
    score: float32 [Q, N], what the answers come from; NaN where unknown.
    strict: float32 [Q, N], the detector's verdict; NaN where unknown.
    source: int32 [N], index into `SOURCES`.
  """

  images: ArrayLike
  tokens: ArrayLike
  kind: ArrayLike
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


def neighbours(chosen: Sequence[grammar.Prompt]) -> list[np.ndarray]:
  """For each prompt, the others of its side that ask for nearly the same.

  Count, colour and shape of the items and the relation are compared, and the
  rows with the fewest differences are taken. Training prompts have training
  prompts for neighbours, and held-out ones held-out ones.
  """
  features = np.full((len(chosen), 7), -9, np.int64)
  for row, prompt in enumerate(chosen):
    items = [value for item in prompt.items for value in item]
    features[row, : len(items)] = items
    features[row, 6] = prompt.relation
  names = np.array([grammar.combination(p.items, p.relation) for p in chosen])
  trained = np.array([p.split == "train" for p in chosen])
  found = []
  for row in range(len(chosen)):
    distance = (features != features[row]).sum(1)
    distance[(names == names[row]) | (trained != trained[row])] = 99
    if distance.min() == 99:
      raise UserError(
        f'no other prompt to set beside "{chosen[row].text}": preferences need'
        " prompts of at least two meanings on each side of the split"
      )
    found.append(np.flatnonzero(distance == distance.min()))
  return found


def choose_rows(
  chosen: Sequence[grammar.Prompt], rows: int, seed: int
) -> list[grammar.Prompt]:
  """Prompts, repeated if need be: half evenly over kinds, half over prompts."""
  order = np.random.default_rng(seed).permutation(len(chosen))
  by_kind: dict[int, list[grammar.Prompt]] = {}
  for index in order:
    by_kind.setdefault(chosen[index].kind, []).append(chosen[index])
  kinds = [by_kind[k] for k in sorted(by_kind)]
  turn = lambda some, i: some[i % len(some)]
  even = [turn(turn(kinds, i), i // len(kinds)) for i in range((rows + 1) // 2)]
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


def _draw(key, prompts, others, ids, samples, spoiled):
  """Renders of prompts, of their neighbours, and spoiled ones, as uint8.

  Args:
    key: scalar key.
    prompts: Q prompts.
    others: int32 [Q, R], rows of neighbouring prompts.
    ids: uint32 [Q], a number per row.
    samples: uint8 [Q, S, H, W, 3].
    spoiled: pictures per row.
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
  # Renders and samples in turn, each way equally often.
  turn = jnp.arange(rows * spoiled)
  row, way = turn // spoiled, turn % len(negatives.WAYS)
  base = jnp.stack([right[:, 0], as_float(samples[:, 0])], 1)
  base = base[row, turn // len(negatives.WAYS) % 2]
  worse = negatives.spoil(
    keys(2, spoiled), base, wrong[row, turn % renders], way
  )
  worse = worse.reshape(rows, spoiled, *shape)
  return as_bytes(jnp.concatenate([right, wrong, worse], 1))


def _take(tree, index):
  return jax.tree.map(lambda x: jnp.asarray(x)[index], tree)


def detect_all(images: Array, at_once: int = 256) -> detect.Detection:
  """Detection of uint8 pictures [M, H, W, 3], a few at a time."""
  count = images.shape[0]
  chunks = -(-count // at_once)
  pad = ((0, chunks * at_once - count), (0, 0), (0, 0), (0, 0))
  chunked = jnp.pad(images, pad).reshape(chunks, at_once, *images.shape[1:])
  found = jax.lax.map(lambda x: detect.detect(as_float(x)), chunked)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


@functools.partial(jax.jit, static_argnames="spoiled")
def _pictures(key, prompts, ids, samples, rendered, lenders, spoiled):
  """(images [Q, K, H, W, 3], members, dense, strict [Q, N])."""
  rows = ids.shape[0]
  drawn = _draw(key, prompts, rendered, ids, samples, spoiled)
  images = jnp.concatenate([samples, drawn], 1)
  own = images.shape[1]
  members = jnp.arange(rows * own).reshape(rows, own)
  lent = lenders * own + jnp.arange(lenders.shape[1]) % samples.shape[1]
  members = jnp.concatenate([members, lent], 1)
  flat = images.reshape(rows * own, *images.shape[2:])
  seen = _take(detect_all(flat), members.reshape(-1))
  asked = _take(prompts, jnp.repeat(jnp.arange(rows), members.shape[1]))
  verdict = detect.judge(seen, asked)
  shaped = (x.reshape(members.shape) for x in (verdict.dense, verdict.strict))
  return flat, members, *shaped


def collect(
  key: Array,
  chosen: Sequence[grammar.Prompt],
  samples: ArrayLike,
  *,
  renders: int = 2,
  spoiled: int = 3,
  borrowed: int = 2,
  strict_weight: float = 0.5,
) -> Preferences:
  """Pictures of Q prompts, judged; `prob` is empty until `answer` fills it.

  Each row holds the policy's samples, renders of its prompt, renders of
  neighbouring prompts, spoiled pictures, and samples lent by rows of
  neighbouring prompts.

  Args:
    key: scalar key of the renders and the choice of neighbours.
    chosen: Q prompts, training prompts first.
    samples: uint8 [Q, S, H, W, 3], the policy's pictures.
    renders: per row, of the prompt and again of its neighbours.
    spoiled: per row, see `negatives`.
    borrowed: per row, from neighbouring rows.
    strict_weight: w; the score is (1 - w) dense + w strict.
  """
  prompts = grammar.batch(chosen)
  seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, 9)))
  generator = np.random.default_rng(seed)
  near = neighbours(chosen)
  draw = lambda n: np.stack([generator.choice(x, n) for x in near])
  rendered, lenders = draw(renders).astype(int), draw(borrowed).astype(int)
  images, members, dense, strict = _pictures(
    key, prompts, row_ids(prompts), jnp.asarray(samples), rendered, lenders,
    spoiled=spoiled,
  )  # fmt: skip
  counts = (np.shape(samples)[1], renders, renders, spoiled, borrowed)
  names = ("policy", "render", "corrupted", "spoiled", "borrowed")
  source = np.repeat([SOURCES.index(n) for n in names], counts)
  n = len(source)
  return Preferences(
    images=images,
    tokens=jnp.asarray(prompts.tokens),
    kind=jnp.asarray(prompts.kind),
    members=members,
    prob=jnp.full((len(chosen), n, n), jnp.nan),
    score=(1 - strict_weight) * dense + strict_weight * strict,
    strict=strict,
    source=jnp.asarray(source),
  )


def rows_between(
  preferences: Preferences, start: int, stop: int, *, own: int
) -> Preferences:
  """The rows start ... stop - 1 and their pictures, `own` to a row."""
  cut = lambda x: x[start:stop]
  return dataclasses.replace(
    preferences,
    images=preferences.images[start * own : stop * own],
    tokens=cut(preferences.tokens),
    kind=cut(preferences.kind),
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
