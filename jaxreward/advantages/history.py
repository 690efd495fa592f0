"""Credit relative to a prompt's earlier rewards."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxreward.advantages.contract import Advantage, Sizes
from jaxreward.data.repeats import SPREAD
from jaxreward.errors import UserError, require_counts, require_not_negative
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike


@flax.struct.dataclass
class Tracked:
  """The newest rewards of every prompt.

  Attributes:
    prompt_ids: uint32 [N], sorted.
    rewards: float32 [N, S], a ring.
    count: int32 [N], rewards seen so far.
  """

  prompt_ids: ArrayLike
  rewards: ArrayLike
  count: ArrayLike


def per_prompt(
  *,
  buffer_size: int = 16,
  min_count: int = 16,
  epsilon: float = 1e-6,
  clip: float | None = 10.0,
) -> Advantage:
  """Deviation from a prompt's own history, in standard deviations.

  A = (r - mean h) / (std h + epsilon) with h the newest `buffer_size` rewards
  of the prompt, those of this iteration included; while a prompt has fewer
  than `min_count` of them, h is every reward of this iteration.
  Black et al. 2023, https://arxiv.org/abs/2305.13301, appendix; the per-prompt
  statistics of the authors' code, jannerm/ddpo.

  Args:
    buffer_size: rewards kept for each prompt, at least 1.
    min_count: rewards that a prompt's own statistics need.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Raises:
    UserError: an empty buffer, or one smaller than `min_count`.
  """
  require_not_negative("advantage.", epsilon=epsilon, clip=clip)
  require_counts("config.advantage.", buffer_size=buffer_size)
  if not 0 <= min_count <= buffer_size:
    raise UserError(
      f"config.advantage.buffer_size={buffer_size} and min_count={min_count}:"
      " a buffer holds 1 or more, and at least min_count"
    )

  def init(sizes: Sizes) -> Tracked:
    ids = jnp.asarray(np.unique(sizes.prompt_ids()), jnp.uint32)
    return Tracked(
      prompt_ids=ids,
      rewards=jnp.zeros((len(ids), buffer_size), jnp.float32),
      count=jnp.zeros((len(ids),), jnp.int32),
    )

  def update(
    signal: Float[ArrayLike, "P G"],
    mask: Bool[ArrayLike, "P G"],
    prompt_ids: Integer[ArrayLike, "P"],
    state: Tracked,
  ) -> tuple[Float[Array, "P G"], Tracked]:
    row, is_known = _rows(state.prompt_ids, prompt_ids)
    state = _remember(state, row, signal, mask & is_known[:, None])
    history = state.rewards[row]
    filled = jnp.minimum(state.count[row], buffer_size)[:, None]
    is_filled = jnp.arange(buffer_size) < filled
    ready = (filled >= min_count) & (filled > 0)
    mean, std = (
      jnp.where(ready, f(history, is_filled, 1, True), f(signal, mask))
      for f in (masked_mean, masked_std)
    )
    advantage = (signal - mean) / (std + epsilon)
    if clip:
      advantage = jnp.clip(advantage, -clip, clip)
    return jnp.where(mask, advantage, 0.0), state

  return Advantage(init, update)


def _rows(table: ArrayLike, prompt_ids: ArrayLike) -> tuple[Array, Array]:
  """(row of each prompt in the table, whether it is there).

  The n-th repetition of a prompt in a batch has its id plus n times a constant
  (`data.repeats`).
  """
  table = jnp.asarray(table)
  prompt_ids = jnp.asarray(prompt_ids, jnp.uint32)
  repeats = jnp.arange(len(prompt_ids), dtype=jnp.uint32) * np.uint32(SPREAD)
  ids = prompt_ids[:, None] - repeats
  rows = jnp.minimum(jnp.searchsorted(table, ids), len(table) - 1)
  is_match = table[rows] == ids
  first = jnp.argmax(is_match, axis=1)
  return jnp.take_along_axis(rows, first[:, None], 1)[:, 0], is_match.any(1)


def _remember(state: Tracked, row, signal, mask) -> Tracked:
  """Writes valid rewards into the rings, prompt by prompt."""
  size = state.rewards.shape[1]

  def write_prompt(carry, item):
    rewards, count = carry
    r, values, valid = item
    # The newest `size` valid rewards, in order; masked ones are dropped.
    place = (count[r] + jnp.cumsum(valid) - 1) % size
    total = valid.sum()
    newest = valid & (jnp.cumsum(valid) > total - size)
    place = jnp.where(newest, place, size)
    ring = rewards[r].at[place].set(values, mode="drop")
    return (rewards.at[r].set(ring), count.at[r].add(total)), None

  (rewards, count), _ = jax.lax.scan(
    write_prompt, (jnp.asarray(state.rewards), jnp.asarray(state.count)),
    (row, jnp.asarray(signal), jnp.asarray(mask)),
  )  # fmt: skip
  return Tracked(state.prompt_ids, rewards, count)
