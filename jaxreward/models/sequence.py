"""Sharding of activations over the current mesh.

Rows follow the batch: parameters sharded over `fsdp` are gathered, layer by
layer. Left to itself, the compiler may shard features instead, following the
parameters, and then communicates every activation.

`tensor` shards heads where it divides their number, by the rules of the
parameters. Otherwise, as with the 38 heads of SD3.5 large, every device would
hold all logits, which grow with the square of the tokens. Here each device
takes a share of the queries instead, with all keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Bool, Float, Shaped

from jaxreward import compat
from jaxreward.types import Array

AXIS = "tensor"
BATCH_AXES = ("data", "fsdp")
LEAST = 256  # tokens; fewer have small logits
_FREE = PartitionSpec.UNCONSTRAINED

Attend = Callable[[Array, Array, Array], Array]


def rows(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
  """`x` with rows sharded over only the batch axes of the current mesh.

  Without a mesh, or if it does not divide the rows, returns x. The gradient is
  sharded like x. The sharding is fully specified: between products sharded over
  all three axes, partitioners have given wrong values where they were free to
  choose (vectors split from a sharded one, times a product with differently
  sharded features).
  """
  return _place(x, [None] * (x.ndim - 1))


def heads(x: Float[Array, "B N H D"]) -> Float[Array, "B N H D"]:
  """`rows`, with heads sharded over `tensor` if it divides them."""
  parts = _free_axes().get(AXIS, 1)
  axis = AXIS if parts > 1 and x.shape[2] % parts == 0 else None
  return _place(x, [None, axis, None])


def kept(x: Float[Array, "L B *N H D"]) -> Float[Array, "L B *N H D"]:
  """Keys or values of all layers, sharded as `heads` shards one layer's."""
  free, axes = _free_axes(), _axes_of_rows(x.shape[1])
  if math.prod(free.values()) == 1:
    return x
  parts = free.get(AXIS, 1)
  axis = AXIS if x.shape[-2] % parts == 0 else None
  others = [None] * (x.ndim - 4)
  spec = PartitionSpec(None, axes, *others, axis, None)
  return jax.lax.with_sharding_constraint(x, spec)


def is_cut() -> bool:
  """Whether the current mesh shards layers."""
  return _free_axes().get(AXIS, 1) > 1


def _free_axes() -> dict[str, int]:
  """Sizes of the automatic axes of the current mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return {
    name: mesh.shape[name]
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Auto
  }


def _axes_of_rows(count: int) -> tuple[str, ...] | None:
  """Batch axes of the current mesh; None if they do not divide the rows."""
  free = _free_axes()
  axes = tuple(name for name in BATCH_AXES if name in free)
  return None if count % math.prod(free[name] for name in axes) else axes


def _place(x: Array, others: list[str | None]) -> Array:
  axes = _axes_of_rows(x.shape[0])
  if math.prod(_free_axes().values()) == 1 or axes is None:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *others))


def _fill(q: Array, parts: int) -> Array:
  """Pads queries with zeros to a multiple of `parts`."""
  return jnp.pad(q, ((0, 0), (0, -q.shape[1] % parts), (0, 0), (0, 0)))


def attend(
  run: Attend,
  q: Float[Array, "B N H D"],
  k: Float[Array, "B M K D"],
  v: Float[Array, "B M K D"],
  *,
  least: int = LEAST,
) -> Float[Array, "B N H D"]:
  """`run(q, k, v)`, with queries sharded where heads cannot be.

  Args:
    run: attention; each row of its result depends on that row of q alone.
    q: queries; padded with zeros to divide, the padding is dropped again.
    k: keys.
    v: values.
    least: smallest number of tokens for which it pays off.
  """
  mesh = jax.sharding.get_abstract_mesh()
  parts = 1 if mesh.empty else mesh.shape.get(AXIS, 1)
  tokens, heads = q.shape[1:3]
  if math.gcd(parts, heads) == parts or tokens < least:
    return run(q, k, v)
  constrain = lambda x, axis: jax.lax.with_sharding_constraint(
    x, PartitionSpec(_FREE, axis, None, None)
  )
  y = run(
    constrain(_fill(q, parts), AXIS), constrain(k, None), constrain(v, None)
  )
  return constrain(y, AXIS)[:, :tokens]


def by_device(
  run: Callable[..., Array],
  q: Float[Array, "B N H D"],
  k: Float[Array, "B M H D"],
  v: Float[Array, "B M H D"],
  mask: Bool[Array, "B M"] | None,
) -> Float[Array, "B N H D"]:
  """`run(q, k, v, mask)` on each device's share, through `jax.shard_map`.

  For kernels, which the compiler cannot partition. Rows are sharded over the
  batch axes, and heads over `tensor`, or queries if it does not divide heads.

  Args:
    run: attention; each head and row of its result depends on that head and
      row of q alone.
    q: queries; padded with zeros to divide, the padding is dropped again.
    k: keys.
    v: values.
    mask: False for masked keys.
  """
  free = _free_axes()
  if math.prod(free.values()) == 1:
    return run(q, k, v, mask)
  batch = _axes_of_rows(q.shape[0]) or ()
  parts = free.get(AXIS, 1)
  tensor = AXIS if parts > 1 else None
  tokens = q.shape[1]
  q_spec = kv_spec = PartitionSpec(batch, None, tensor)
  if q.shape[2] % parts:
    q_spec, kv_spec = PartitionSpec(batch, tensor), PartitionSpec(batch)
    q = _fill(q, parts)
  in_specs = (q_spec, kv_spec, kv_spec, PartitionSpec(batch))
  mapped = compat.over_shards(run, set(free), in_specs, q_spec)
  return mapped(q, k, v, mask)[:, :tokens]
