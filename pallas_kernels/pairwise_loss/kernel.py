"""Sums over pairs, a tile of pairs at a time.

The grid is (blocks of groups, blocks of own candidates); a program walks over
the other candidates of its groups and keeps running sums.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxreward.compat import pallas as pl
from jaxreward.types import Array


def body(
  own_ref,
  other_ref,
  *outputs,
  tile: Callable[..., tuple[Array, ...]],
  step: int,
):
  """One block of own candidates against all others.

  Args:
    own_ref: fields of the own candidates, float32 [N', K, I'].
    other_ref: fields of all candidates, float32 [N', G, K].
    *outputs: sums, each float32 [N', 1, I'].
    tile: terms of a pair, see `tiles`.
    step: J', others per tile; divides G.
  """
  groups, fields, width = own_ref.shape
  own = tuple(own_ref[:, k : k + 1, :] for k in range(fields))
  shape = (1, step, width)
  own_index = jax.lax.broadcasted_iota(jnp.int32, shape, 2)
  own_index += pl.program_id(1) * width
  other_index = jax.lax.broadcasted_iota(jnp.int32, shape, 1)

  def add(i, sums):
    start = pl.multiple_of(i * step, step)
    other = tuple(
      other_ref[:, pl.ds(start, step), k : k + 1] for k in range(fields)
    )
    terms = tile(own, other, own_index != other_index + start)
    return tuple(
      total + jnp.sum(x, axis=1, keepdims=True)
      for total, x in zip(sums, terms, strict=True)
    )

  zero = jnp.zeros((groups, 1, width), jnp.float32)
  count = other_ref.shape[1] // step
  sums = jax.lax.fori_loop(0, count, add, (zero,) * len(outputs))
  for ref, total in zip(outputs, sums, strict=True):
    ref[...] = total
