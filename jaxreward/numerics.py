"""Masked statistics and weighted metrics, safe in value and in gradient, and a
map over rows in chunks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Num, Shaped

from jaxreward.types import Array, ArrayLike


def largest(x: Num[ArrayLike, "*N"], axis: int) -> Num[Array, "..."]:
  """The maximum along an axis, whose gradient goes to one place.

  That of `jnp.max` compares x with its maximum and divides by the number of equal
  places. A compiler that computes x twice, rounded differently, finds none, and
  the gradient is 0 / 0.
  """
  x = jnp.asarray(x)
  place = jnp.expand_dims(jnp.argmax(x, axis), axis)
  return jnp.take_along_axis(x, place, axis).squeeze(axis)


def masked_mean(
  x: Num[ArrayLike, "*N"],
  mask: Bool[ArrayLike, "..."] | None = None,
  axis: int | tuple[int, ...] | None = None,
  keepdims: bool = False,
) -> Num[Array, "..."]:
  """Mean over the entries where `mask` is true; 0 where there are none.

  Masked entries may hold anything, NaN included: they reach neither the value
  nor the gradient.
  """
  if mask is None:
    return jnp.mean(x, axis=axis, keepdims=keepdims)
  mask = jnp.broadcast_to(mask, jnp.shape(x))
  total = jnp.sum(jnp.where(mask, x, 0), axis=axis, keepdims=keepdims)
  count = jnp.sum(mask, axis=axis, keepdims=keepdims)
  return total / jnp.maximum(count, 1)


def masked_var(
  x: Num[ArrayLike, "*N"],
  mask: Bool[ArrayLike, "..."] | None = None,
  axis: int | tuple[int, ...] | None = None,
  keepdims: bool = False,
) -> Num[Array, "..."]:
  """Population variance over unmasked entries; 0 where there are none."""
  mean = masked_mean(x, mask, axis=axis, keepdims=True)
  x = x if mask is None else jnp.where(mask, x, mean)
  return masked_mean(jnp.square(x - mean), mask, axis=axis, keepdims=keepdims)


def safe_sqrt(x: Num[ArrayLike, "*N"]) -> Num[Array, "*N"]:
  """Square root whose gradient at 0 is 0 instead of infinite."""
  positive = x > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def masked_std(
  x: Num[ArrayLike, "*N"],
  mask: Bool[ArrayLike, "..."] | None = None,
  axis: int | tuple[int, ...] | None = None,
  keepdims: bool = False,
) -> Num[Array, "..."]:
  """Population standard deviation over unmasked entries.

  Squares neither overflow nor underflow: very large or small values are first
  scaled by a power of two, which is exact.
  """
  unit = unit_of(x, mask, axis)
  std = safe_sqrt(masked_var(x * unit, mask, axis=axis, keepdims=keepdims))
  keeps_axes = keepdims or axis is None
  return std / (unit.reshape(std.shape) if not keeps_axes else unit)


def unit_of(
  x: Num[ArrayLike, "*N"],
  mask: Bool[ArrayLike, "..."] | None = None,
  axis: int | tuple[int, ...] | None = None,
) -> Num[Array, "..."]:
  """A power of two that brings unmasked entries near 1; 1 for usual sizes.

  Axes are kept, with length 1; without an axis it is one number.
  """
  size = jnp.abs(jnp.asarray(x))
  valid = True if mask is None else jnp.broadcast_to(mask, size.shape)
  top = jnp.max(
    size, axis=axis, keepdims=axis is not None, where=valid, initial=0.0
  )
  unit = jnp.where(top > 2.0**50, 2.0**-70, 1.0)
  unit = jnp.where((top > 0) & (top < 2.0**-50), 2.0**70, unit)
  return jax.lax.stop_gradient(unit.astype(size.dtype))


@flax.struct.dataclass
class Running:
  """Running mean and deviation, equal to those of all entries at once.

  Attributes:
    count: float32, entries.
    mean: float32.
    square: float32, sum of squared deviations from the mean.
  """

  count: ArrayLike
  mean: ArrayLike
  square: ArrayLike

  @classmethod
  def empty(cls) -> Running:
    """Statistics of no entries, in new arrays."""
    return cls(*(jnp.zeros((), jnp.float32) for _ in range(3)))

  def add(
    self, x: Num[ArrayLike, "*N"], mask: Bool[ArrayLike, "..."]
  ) -> Running:
    """With the unmasked entries of `x` (Chan et al. 1983)."""
    count = jnp.sum(jnp.broadcast_to(mask, jnp.shape(x)), dtype=jnp.float32)
    mean = masked_mean(x, mask)
    total = jnp.maximum(self.count + count, 1)
    gap = mean - self.mean
    return Running(
      self.count + count,
      self.mean + gap * count / total,
      self.square
      + masked_var(x, mask) * count
      + jnp.square(gap) * self.count * count / total,
    )

  def normalize(self, x: Num[ArrayLike, "*N"]) -> Num[Array, "*N"]:
    """(x - mean) / deviation; 0 while there is no deviation."""
    std = safe_sqrt(self.square / jnp.maximum(self.count, 1))
    return jnp.where(std > 0, (x - self.mean) / jnp.where(std > 0, std, 1), 0.0)


@flax.struct.dataclass
class Mean:
  """A mean as (unreduced sum, weight): pools exactly over any split."""

  total: ArrayLike
  weight: ArrayLike

  @classmethod
  def of(
    cls,
    x: Shaped[ArrayLike, "..."],
    mask: Bool[ArrayLike, "..."] | None = None,
  ) -> Mean:
    """Sum and count of the unmasked entries of `x`, in float32."""
    x = jnp.asarray(x, jnp.float32)
    if mask is None:
      return cls(jnp.sum(x), jnp.float32(x.size))
    mask = jnp.broadcast_to(mask, x.shape)
    return cls(
      jnp.sum(jnp.where(mask, x, 0.0)), jnp.sum(mask, dtype=jnp.float32)
    )

  def __add__(self, other: Mean) -> Mean:
    return Mean(self.total + other.total, self.weight + other.weight)

  def value(self) -> Array:
    """total / weight, or 0 when nothing was weighed."""
    has_weight = self.weight > 0
    return jnp.where(
      has_weight, self.total / jnp.where(has_weight, self.weight, 1), 0
    )


@flax.struct.dataclass
class Max:
  """A maximum as (largest, weight): pools exactly over any split, by `+`.

  Zeros are the neutral element, as they are for `Mean`; a NaN stays.
  """

  largest: ArrayLike
  weight: ArrayLike

  @classmethod
  def of(
    cls,
    x: Shaped[ArrayLike, "..."],
    mask: Bool[ArrayLike, "..."] | None = None,
  ) -> Max:
    """Maximum and count of the unmasked entries of `x`, in float32."""
    x = jnp.asarray(x, jnp.float32)
    mask = jnp.broadcast_to(True if mask is None else mask, x.shape)
    weight = jnp.sum(mask, dtype=jnp.float32)
    largest = jnp.max(jnp.where(mask, x, -jnp.inf), initial=-jnp.inf)
    return cls(jnp.where(weight > 0, largest, 0.0), weight)

  def __add__(self, other: Max) -> Max:
    a, b = (jnp.where(m.weight > 0, m.largest, -jnp.inf) for m in (self, other))
    weight = self.weight + other.weight
    return Max(jnp.where(weight > 0, jnp.maximum(a, b), 0.0), weight)

  def value(self) -> ArrayLike:
    """The largest, or 0 when nothing was weighed."""
    return self.largest


Metric = Mean | Max


def pool(first: Any, second: Any) -> Any:
  """Sum of two trees of metrics and arrays, maxima by the larger."""
  is_metric = lambda x: isinstance(x, Metric)
  return jax.tree.map(operator.add, first, second, is_leaf=is_metric)


def in_chunks(measure: Callable[[Any], Any], rows: Any, at_once: int) -> Any:
  """A measure of M rows, on `at_once` of them at a time; call it in jit.

  Args:
    measure: pytree of [B, ...] -> pytree of [B, ...], each row by itself.
    rows: pytree of [M, ...].
    at_once: B.
  """
  count = jax.tree.leaves(rows)[0].shape[0]
  chunks = -(-count // at_once)

  def split(x):
    x = jnp.asarray(x)
    whole = jnp.resize(x, (chunks * at_once, *x.shape[1:]))
    return whole.reshape(chunks, at_once, *x.shape[1:])

  parts = jax.lax.map(measure, jax.tree.map(split, rows))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], parts)
