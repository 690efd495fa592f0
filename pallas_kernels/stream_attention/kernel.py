"""Forward and backward on the heads of one grid cell, all tokens in memory.

A cell holds `heads` heads of one row side by side, [1, N_i, heads * D] of each
stream. Norms and rotations happen on the way into scratch memory, [N, heads * D]
with every stream padded to whole tiles. Heads are told apart by masks on the
smaller operand: a product over all lanes costs what one over the lanes of a
head does. Logits of a block of queries against all keys fit, so that the
forward pass needs no running maximum.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_tpu as pltpu
from pallas_kernels import tiling
from pallas_kernels.stream_attention.reference import EPSILON

MASKED = -1e30
TILE = tiling.LANES  # queries, or keys, at a time
UNROLLED = 12  # tiles of keys at most


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Static facts of a cell.

  Attributes:
    tokens: of each stream.
    heads: in a cell.
    width: D, features of a head.
    is_normed: whether queries and keys have unit mean square times a scale.
    is_rotated: whether they are then rotated by position.
  """

  tokens: tuple[int, ...]
  heads: int
  width: int
  is_normed: bool
  is_rotated: bool

  @property
  def starts(self) -> tuple[int, ...]:
    """Of the streams in scratch memory."""
    padded = [tiling.round_up(n, TILE) for n in self.tokens]
    return tuple(sum(padded[:i]) for i in range(len(padded)))

  @property
  def total(self) -> int:
    """Tokens in scratch memory."""
    return self.starts[-1] + tiling.round_up(self.tokens[-1], TILE)

  @property
  def lanes(self) -> int:
    """Features of a cell."""
    return self.heads * self.width


def forward(*refs: Any, sizes: Sizes):
  """Refs: q, k, v of each stream; scales; cosines, sines; outputs [1, N_i, F]
  and logarithms of the softmax's sums [1, 1, heads, N]; scratch."""
  inputs, rest = _inputs(refs, sizes)
  count = len(sizes.tokens)
  outputs, log_sums, (qs, ks, vs, ys) = rest[:count], rest[count], rest[-4:]
  _load(inputs, sizes, (qs, ks, vs))

  def step(i, _):
    rows = _tile(i)
    q, y, columns = qs[rows], 0.0, []
    for head in range(sizes.heads):
      logits = _dot(_of_head(q, head, sizes), ks[...], 1, 1)
      logits = _hide_padding(logits, sizes)
      top = jnp.max(logits, axis=1, keepdims=True)
      weight = jnp.exp((logits - top) * sizes.width**-0.5)
      total = jnp.sum(weight, axis=1, keepdims=True)
      part = _dot(weight.astype(vs.dtype), vs[...], 1, 0) * (1 / total)
      y = y + _of_head(part, head, sizes)
      columns.append(top * sizes.width**-0.5 + jnp.log(total))
    ys[rows] = jnp.asarray(y).astype(ys.dtype)
    log_sums[0, 0, :, rows] = _as_rows(columns)[: sizes.heads]
    return 0

  jax.lax.fori_loop(0, sizes.total // TILE, step, 0)
  for output, start, n in zip(outputs, sizes.starts, sizes.tokens, strict=True):
    output[0] = ys[start : start + n]


def backward(*refs: Any, sizes: Sizes):
  """Refs: as `forward`; then outputs, cotangents and logarithms of sums; dq,
  dk, dv of each stream, gradients of the scales; scratch.

  Logits are transposed, [keys, queries], a tile at a time.
  """
  inputs, rest = _inputs(refs, sizes)
  count = len(sizes.tokens)
  outputs, cotangents = rest[:count], rest[count : 2 * count]
  log_sums, rest = rest[2 * count], rest[2 * count + 1 :]
  grads, rest = rest[: 3 * count], rest[3 * count :]
  scale_grads, rest = (rest[0], rest[1:]) if sizes.is_normed else (None, rest)
  qs, ks, vs, ys, gs, dqs, dks, dvs = rest
  _load(inputs, sizes, (qs, ks, vs))
  for i in range(count):
    _store(ys, sizes, i, outputs[i][0])
    _store(gs, sizes, i, cotangents[i][0])
  dks[...] = jnp.zeros(dks.shape, dks.dtype)
  dvs[...] = jnp.zeros(dvs.shape, dvs.dtype)
  count = sizes.total // TILE

  def step(i, _):
    rows = _tile(i)
    q, g = qs[rows], gs[rows]
    along = g.astype(jnp.float32) * ys[rows].astype(jnp.float32)
    heads = range(sizes.heads)
    q_of = [_of_head(q, head, sizes) for head in heads]
    g_of = [_of_head(g, head, sizes) for head in heads]
    log_sum_of = [log_sums[0, 0, head : head + 1, rows] for head in heads]
    slopes = _as_rows(
      [
        jnp.sum(_of_head(along, head, sizes), axis=1, keepdims=True)
        for head in heads
      ]
    )

    def against(j, dq):
      keys = _tile(j)
      k, v = ks[keys], vs[keys]
      dk, dv, dq = dks[keys], dvs[keys], list(dq)
      for head in heads:
        # Keys of padding are 0: what they get is read by nobody.
        logits = _dot(k, q_of[head], 1, 1) * sizes.width**-0.5
        weight = jnp.exp(jnp.minimum(logits - log_sum_of[head], 0.0))
        dw = _dot(v, g_of[head], 1, 1)
        dl = (weight * (dw - slopes[head : head + 1])).astype(q.dtype)
        dv += _dot(weight.astype(g.dtype), g_of[head], 1, 0)
        dk += _dot(dl, q_of[head], 1, 0)
        dq[head] += _dot(dl, k, 0, 0)
      dks[keys], dvs[keys] = dk, dv
      return tuple(dq)

    zeros = jnp.zeros((TILE, sizes.lanes), jnp.float32)
    dq = (zeros,) * sizes.heads
    if count > UNROLLED:
      dq = jax.lax.fori_loop(0, count, against, dq)
    else:  # lets the compiler overlap a tile's products with the next one's
      for j in range(count):
        dq = against(j, dq)
    dqs[rows] = sum(_of_head(dq[head], head, sizes) for head in heads)
    return 0

  jax.lax.fori_loop(0, count, step, 0)
  for i, (start, n) in enumerate(zip(sizes.starts, sizes.tokens, strict=True)):
    for j, ref in enumerate((dqs, dks, dvs)):
      dy = ref[start : start + n]
      if j < 2:
        x = inputs.streams[i][j][0]
        dy = dy * sizes.width**-0.5
        dy, sums = _unprepare(x, dy, inputs, sizes, i, j)
        if scale_grads is not None:
          scale_grads[0, 0, 2 * i + j : 2 * i + j + 1, :] = sums
      grads[3 * i + j][0] = dy.astype(grads[0].dtype)


@dataclasses.dataclass(frozen=True)
class _Inputs:
  streams: list[tuple[Any, Any, Any]]
  scales: Any
  cos: Any
  sin: Any


def _inputs(refs: tuple[Any, ...], sizes: Sizes) -> tuple[_Inputs, Any]:
  count = 3 * len(sizes.tokens)
  streams = [refs[i : i + 3] for i in range(0, count, 3)]
  rest = refs[count:]
  scales, cos, sin = None, None, None
  if sizes.is_normed:
    scales, rest = rest[0], rest[1:]
  if sizes.is_rotated:
    cos, sin, rest = rest[0], rest[1], rest[2:]
  return _Inputs(streams, scales, cos, sin), rest


def _dot(a, b, of_a: int, of_b: int):
  """Contracts one axis of each, sums in float32."""
  return jax.lax.dot_general(
    a, b, (((of_a,), (of_b,)), ((), ())), preferred_element_type=jnp.float32
  )


def _as_rows(columns):
  """Columns [TILE, 1] of the heads as rows, [TILE, TILE] with zeros below."""
  lane = jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
  parts = [jnp.where(lane == i, x, 0.0) for i, x in enumerate(columns)]
  return functools.reduce(jnp.add, parts).T


def _tile(i):
  if isinstance(i, int):
    return slice(i * TILE, (i + 1) * TILE)
  return pl.ds(pl.multiple_of(i * TILE, TILE), TILE)


def _of_head(x, head: int, sizes: Sizes):
  """x with zeros in the lanes of other heads."""
  if sizes.heads == 1:
    return x
  lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  begin = head * sizes.width
  is_in = (lane >= begin) & (lane < begin + sizes.width)
  return jnp.where(is_in, x, jnp.zeros_like(x))


def _store(ref, sizes: Sizes, i: int, x):
  """Tokens of stream i; zeros up to whole tiles."""
  start, n = sizes.starts[i], sizes.tokens[i]
  if n % TILE:
    tile = start + n - n % TILE
    ref[tile : tile + TILE] = jnp.zeros((TILE, sizes.lanes), ref.dtype)
  ref[start : start + n] = x.astype(ref.dtype)


def _load(inputs: _Inputs, sizes: Sizes, scratch):
  for i, stream in enumerate(inputs.streams):
    for j, (source, ref) in enumerate(zip(stream, scratch, strict=True)):
      x = source[0]
      _store(ref, sizes, i, _prepare(x, inputs, sizes, i, j) if j < 2 else x)


def _mean(x, sizes: Sizes):
  """Over the features of each head, in all of its lanes."""
  means = 0.0
  for head in range(sizes.heads):
    total = jnp.sum(_of_head(x, head, sizes), axis=1, keepdims=True)
    mean = jnp.broadcast_to(total * (1 / sizes.width), x.shape)
    means = means + _of_head(mean, head, sizes)
  return means


def _prepare(x, inputs: _Inputs, sizes: Sizes, i: int, j: int):
  """Norm, then rotation; each rounds to the type of x."""
  dtype = x.dtype
  if sizes.is_normed:
    x = x.astype(jnp.float32)
    scale = inputs.scales[2 * i + j : 2 * i + j + 1, :]
    factor = jax.lax.rsqrt(_mean(x * x, sizes) + EPSILON)
    x = (x * (factor * scale)).astype(dtype)
  if sizes.is_rotated:
    cos, sin = _angles(inputs, sizes, i)
    x = x.astype(jnp.float32)
    x = (x * cos + _turned(x) * sin).astype(dtype)
  return x


def _unprepare(x, dy, inputs: _Inputs, sizes: Sizes, i: int, j: int):
  """(gradient of x, gradient of the scale [1, heads * D])."""
  if sizes.is_rotated:
    cos, sin = _angles(inputs, sizes, i)
    dy = dy * cos - _turned(dy) * sin
  if not sizes.is_normed:
    return dy, None
  x = x.astype(jnp.float32)
  factor = jax.lax.rsqrt(_mean(x * x, sizes) + EPSILON)
  unit = x * factor
  sums = jnp.sum(dy * unit, axis=0, keepdims=True)
  dy = dy * inputs.scales[2 * i + j : 2 * i + j + 1, :]
  return factor * (dy - unit * _mean(dy * unit, sizes)), sums


def _angles(inputs: _Inputs, sizes: Sizes, i: int):
  start = sum(sizes.tokens[:i])
  rows = slice(start, start + sizes.tokens[i])
  return inputs.cos[rows], inputs.sin[rows]


def _turned(x):
  """(a, b) -> (-b, a) of neighbouring pairs; its transpose is its negative."""
  lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  before, after = pltpu.roll(x, 1, 1), pltpu.roll(x, x.shape[1] - 1, 1)
  return jnp.where(lane % 2 == 0, -after, before)


def _gap(start: int, sizes: Sizes) -> int:
  """First padded token of the tile at `start`; `TILE` if it is full."""
  for begin, n in zip(sizes.starts, sizes.tokens, strict=True):
    if n % TILE and start == begin + n - n % TILE:
      return n % TILE
  return TILE


def _hide_padding(logits, sizes: Sizes):
  """Logits [queries, keys], far below 0 at padding."""
  if all(n % TILE == 0 for n in sizes.tokens):
    return logits
  parts = []
  for start in range(0, sizes.total, TILE):
    part, end = logits[:, start : start + TILE], _gap(start, sizes)
    if end < TILE:
      place = jax.lax.broadcasted_iota(jnp.int32, part.shape, 1)
      part = jnp.where(place < end, part, MASKED)
    parts.append(part)
  return jnp.concatenate(parts, axis=1)
