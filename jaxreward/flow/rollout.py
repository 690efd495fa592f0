"""The rows of a rollout: their prompts and members, and the split into chunks.

Samples lie on one flat axis of B rows, split into chunks of a fixed
micro-batch. The update splits its batches the same way, so both run the network
at one shape.
"""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer, Shaped

from jaxreward.types import (
  ArrayLike,
  Cond,
)


@flax.struct.dataclass
class Layout:
  """The prompt and member of every row of the flat sample axis.

  Row b = m * C + c belongs to chunk c of C, place m of M, so that an axis
  sharded over devices stays sharded when it is cut into chunks.

  Attributes:
    prompt_index: int32 [B].
    member: int32 [B].
    mask: bool [B], False for padding.
    chunks: C, static.
    prompts: P, static.
    group: G, static.
  """

  prompt_index: ArrayLike
  member: ArrayLike
  mask: ArrayLike
  chunks: int = flax.struct.field(pytree_node=False)
  prompts: int = flax.struct.field(pytree_node=False)
  group: int = flax.struct.field(pytree_node=False)


def make_layout(
  prompts: int, group: int, microbatch: int, devices: int = 1, parts: int = 1
) -> Layout:
  """Lays P x G samples out in chunks of at most `microbatch` rows.

  Prompts, group, micro-batch and devices need not divide one another: the
  micro-batch is rounded up to a multiple of the devices and the last chunk is
  padded under a mask.

  Args:
    prompts: P.
    group: G.
    microbatch: rows of a chunk, at most, but for that rounding.
    devices: that the rows are spread over.
    parts: the number of chunks is a multiple of it.
  """
  up_to = lambda count, step: -(-count // step) * step
  total = prompts * group
  rows = up_to(min(microbatch, total), devices)
  chunks = -(-total // rows)
  if chunks % parts:
    chunks = up_to(chunks, parts)
    rows = up_to(-(-total // chunks), devices)
  sample = np.arange(rows * chunks)
  mask = sample < total
  sample = np.where(mask, sample, 0)
  return Layout(
    prompt_index=(sample // group).astype(np.int32),
    member=(sample % group).astype(np.int32),
    mask=mask,
    chunks=chunks,
    prompts=prompts,
    group=group,
  )


def to_chunks(
  x: Shaped[ArrayLike, "B *L"], chunks: int
) -> Shaped[ArrayLike, "{chunks} M *L"]:
  """[B, ...] -> [C, M, ...]."""
  return x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1)


def from_chunks(x: Shaped[ArrayLike, "C M *L"]) -> Shaped[ArrayLike, "C*M *L"]:
  """[C, M, ...] -> [B, ...]."""
  x = x.swapaxes(0, 1)
  return x.reshape(-1, *x.shape[2:])


def to_groups(
  x: Shaped[ArrayLike, "B *L"], prompts: int, group: int
) -> Shaped[ArrayLike, "{prompts} {group} *L"]:
  """[B, ...] -> [P, G, ...], padding dropped."""
  return x[: prompts * group].reshape(prompts, group, *x.shape[1:])


def from_groups(
  x: Shaped[ArrayLike, "P G *L"], layout: Layout
) -> Shaped[ArrayLike, "B *L"]:
  """[P, G, ...] -> [B, ...]; padding repeats the first sample, under the mask."""
  return x[layout.prompt_index, layout.member]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take_rows(rows, x, index):
  del rows
  return x[index]


def _take_rows_forward(rows, x, index):
  return _take_rows(rows, x, index), index


def _take_rows_backward(rows, index, g):
  one_hot = jax.nn.one_hot(index, rows, dtype=jnp.float32, axis=0)
  gradients = g.reshape(g.shape[0], -1).astype(jnp.float32)
  total = jnp.matmul(one_hot, gradients, precision=jax.lax.Precision.HIGHEST)
  return total.reshape(rows, *g.shape[1:]).astype(g.dtype), None


_take_rows.defvjp(_take_rows_forward, _take_rows_backward)


def gather_cond(cond: Cond, index: Integer[ArrayLike, "B"]) -> Cond:
  """Rows of a per-prompt conditioning, one per sample.

  The gradient adds up each prompt's rows in one product, not in a scatter:
  that is fast on every backend, and its summation order is fixed.
  """

  def take(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
      return _take_rows(x.shape[0], x, index)
    return x[index]

  return jax.tree.map(take, cond)


def gather_uncond(
  uncond: Cond | None, index: Integer[ArrayLike, "B"]
) -> Cond | None:
  """`gather_cond` for the empty prompt, where one row may serve all."""
  rows = {len(x) for x in jax.tree.leaves(uncond)}
  return uncond if rows <= {1} else gather_cond(uncond, index)
