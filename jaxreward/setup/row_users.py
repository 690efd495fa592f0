"""Users of preferences that a policy learns from, as `config.data.users` says.

Each is a vector that an encoder gives of the user's first comparisons; nothing
learns from these. A task's own pairs are labeled by planted users, odd ones of the
opposite taste in colour of even ones.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import rng, setup, user_code
from jaxreward.data import preferences, tastes
from jaxreward.data.images import read_images
from jaxreward.data.rows import Record, RowBatch
from jaxreward.data.users import ENCODERS, NOBODY, Users
from jaxreward.errors import UserError, require_counts, shown
from jaxreward.types import Array, Policy, PromptBatch

FIELD = "config.data.users"


def check(
  config: ConfigDict, policy: Policy, origin: str, is_drawn: bool
) -> None:
  """Refuses users that nothing reads, or that cannot be known.

  Args:
    config: of the run.
    policy: the policy.
    origin: of its rows, see `offline.origin`.
    is_drawn: whether the task draws them.

  Raises:
    UserError: the field, its value and the fix.
  """
  users, is_pairs = config.data.users, origin == "preferences"
  if users.count and not (policy.user and is_pairs):
    fix = "set config.model.user" if is_pairs else "set config.data.preferences"
    raise UserError(
      f"{FIELD}.count={users.count}: users are read by a policy that takes them"
      f" as vectors, from rows of preferences; {fix}"
    )
  if not policy.user or not is_pairs:
    return
  require_counts(f"{FIELD}.", shown=users.shown, rows=users.rows)
  if is_drawn and users.count < 1:
    raise UserError(
      f"{FIELD}.count={users.count}: config.model.user={policy.user} takes users,"
      f" and who labels the {config.data.preferences} is planted; set it to 2 or"
      " more"
    )
  _vectors(config, [np.zeros((1, 2, *setup.picture_side(policy), 3), np.uint8)])


def pairs(
  config: ConfigDict,
  key: Array,
  prompts: PromptBatch,
  user: Int[np.ndarray, "P"],
) -> tuple[UInt8[np.ndarray, "P 2 H W 3"], Float[np.ndarray, "P 2"]]:
  """(two right images of each prompt, 1 for what its user prefers and else 0).

  Both are 1 where a user cannot tell.
  """
  draw = setup.make_task(config).draw
  assert draw is not None
  images = [
    np.asarray(draw(jax.random.fold_in(key, i), prompts, with_worse=False))
    for i in range(2)
  ]
  both = np.concatenate(images, 1)
  return both, preferred(both, user)


def preferred(
  images: np.ndarray, user: Int[np.ndarray, "P"]
) -> Float[np.ndarray, "P G"]:
  """1 for the images [P, G, H, W, 3] that a planted user likes best, else 0."""
  if images.dtype == np.uint8:
    images = images / np.float32(255)
  warmth = tastes.warmth(images.mean((2, 3)))
  liked = np.asarray(tastes.rating(warmth, warmth, user, 1.0))
  return (liked == liked.max(1, keepdims=True)).astype(np.float32)


def planted(config: ConfigDict) -> Users:
  """Users who label a task's own pairs."""
  users = config.data.users
  number = np.repeat(np.arange(users.count + users.unseen), users.shown)
  prompts = preferences.choose_rows(
    setup.load_prompts(config, "train"), len(number), config.seed
  )
  batch = setup.make_task(config).batch(prompts)
  batch = dataclasses.replace(batch, ids=preferences.row_ids(batch))
  key = rng.stream_key(config.seed, "comparisons")
  images, scores = pairs(config, key, batch, number)
  order = np.argsort(-scores, 1, kind="stable")[..., None, None, None]
  images = np.take_along_axis(images, order, 1)
  images = images.reshape(-1, users.shown, *images.shape[1:])
  return Users(_vectors(config, list(images)), users.count)


def numbered(
  config: ConfigDict, step: int, users: Users, rows: int
) -> Int[np.ndarray, "P"]:
  """The planted user of each row of a step."""
  stream = zlib.crc32(b"planted users")
  generator = np.random.default_rng([config.seed, stream, step])
  return generator.integers(0, users.known, rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
  """Rows of a file by what they are for.

  Attributes:
    shown: name of each user -> rows that the user is known by.
    known: how many users, the first ones, rows are learned from.
    learned: rows to train on.
    tested: rows of the other users.
  """

  shown: Mapping[str, Sequence[Record]]
  known: int
  learned: tuple[Record, ...]
  tested: tuple[Record, ...]

  def users(self, config: ConfigDict) -> Users:
    """With their vectors; reads the images."""
    side = setup.picture_side(setup.make_policy(config))
    images = [_shown(rows, side) for rows in self.shown.values()]
    return Users(_vectors(config, images), self.known)


def parted(config: ConfigDict, records: Sequence[Record]) -> Parts:
  """Parts the rows of a file: what users are known by, learned from, tested on.

  The last `data.users.unseen` users of the file are in the test alone.

  Raises:
    UserError: no row names a user, or nothing is left to learn from.
  """
  options = config.data.users
  start = f"config.data.preferences={shown(config.data.preferences, 60)}"
  rows_of: dict[str, list[Record]] = {}
  for record in records:
    if record.user and not record.is_tie:
      rows_of.setdefault(record.user, []).append(record)
  if not rows_of:
    raise UserError(
      f"{start}: config.model.user={config.model.user} takes users, and no row"
      " names one; add a column user, or name it in"
      " config.data.layout.columns.user"
    )
  known = len(rows_of) - options.unseen
  if known < 1:
    raise UserError(
      f"{FIELD}.unseen={options.unseen}: the file has {len(rows_of)} users, which"
      " leaves none to learn from"
    )
  known_by = {name: rows[: options.shown] for name, rows in rows_of.items()}
  used = {id(r) for rows in known_by.values() for r in rows}
  new = set([*rows_of][known:])
  rest = [r for r in records if id(r) not in used]
  learned = tuple(r for r in rest if r.user not in new)
  if all(r.is_tie for r in learned):
    raise UserError(
      f"{start}: every user is known by {FIELD}.shown={options.shown} rows, from"
      " which nothing learns, and no other rows are left; set it lower"
    )
  tested = tuple(r for r in rest if r.user in new)
  return Parts(known_by, known, learned, tested)


def attached(
  config: ConfigDict, batch: RowBatch, users: Users, step: int
) -> RowBatch:
  """The batch with its users' vectors, a share of them the average user's."""
  number = np.asarray(batch.user)
  share = config.data.users.drop
  if share:
    stream = zlib.crc32(b"users")
    generator = np.random.default_rng([config.seed, stream, step])
    is_dropped = generator.random(len(number)) < share
    number = np.where(is_dropped, NOBODY, number)
  prompts = dataclasses.replace(batch.prompts, user=users.of(number))
  return dataclasses.replace(batch, prompts=prompts)


def _shown(records: Sequence[Record], side: tuple[int, int]) -> np.ndarray:
  """uint8 [K, 2, H, W, 3], the preferred image of each row first."""
  files = [
    list(r.files.values())[:: 1 if r.scores[0] > r.scores[1] else -1]
    for r in records
  ]
  places = [r.place for r in records for _ in range(2)]
  images = read_images([f for pair in files for f in pair], side, places)
  return images.reshape(-1, 2, *images.shape[1:])


def _vectors(
  config: ConfigDict, comparisons: Sequence[np.ndarray]
) -> Float[np.ndarray, "N D"]:
  """What the encoder makes of each user's pairs, uint8 [K, 2, H, W, 3]."""
  section = config.data.users.encoder
  encode = config_lib.bind(
    section, ENCODERS, field="data.users.encoder", positional=1
  )
  with user_code.blamed(f"{FIELD}.encoder", encode, host=True):
    vectors = [
      np.asarray(encode(pair / np.float32(255))) for pair in comparisons
    ]
  width = setup.make_policy(config).user
  for vector in vectors:
    if vector.shape != (width,) or not np.isfinite(vector).all():
      raise UserError(
        f'{FIELD}.encoder.name="{section.name}" gives {vector.shape} numbers per'
        f" user, and config.model.user={width}; the two have to be the same, and"
        " all finite"
      )
  return np.stack(vectors).astype(np.float32)
