"""Where the activations of a network lie on the mesh in use.

Rows follow the batch: parameters that are cut over `fsdp` are gathered, layer
by layer. A compiler that is left to itself may cut features instead, because
that is how the parameters lie, and then sends every activation around.

Heads are what `tensor` cuts where they divide by it: the rules of parameters
see to that. Where they do not, as with the 38 heads of SD3.5 large, every
device would hold all logits, which grow with the square of the tokens. Here
each takes a share of the queries instead, with all keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Bool, Float, Shaped

from jaxreward.types import Array

AXIS = "tensor"
BATCH_AXES = ("data", "fsdp")
LEAST = 256  # tokens, below which logits are small
_FREE = PartitionSpec.UNCONSTRAINED

Attend = Callable[[Array, Array, Array], Array]


def rows(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
  """`x` with its rows cut over the batch axes of the mesh in use, no more.

  Where there is no mesh, or the rows do not divide by it, x as it is. The
  gradient of x lies as x does. Nothing is left open: between products that
  are cut over all three axes, partitioners have been seen to give wrong
  values where they choose for themselves (vectors split out of one that is
  cut, times a product whose features are cut otherwise).
  """
  return _place(x, [None] * (x.ndim - 1))


def heads(x: Float[Array, "B N H D"]) -> Float[Array, "B N H D"]:
  """`rows`, with heads cut over `tensor` where they divide by it."""
  parts = _free_axes().get(AXIS, 1)
  axis = AXIS if parts > 1 and x.shape[2] % parts == 0 else None
  return _place(x, [None, axis, None])


def _free_axes() -> dict[str, int]:
  """Sizes of the axes of the mesh in use that the compiler may cut."""
  mesh = jax.sharding.get_abstract_mesh()
  return {
    name: mesh.shape[name]
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Auto
  }


def _axes_of_rows(count: int) -> tuple[str, ...] | None:
  """Batch axes of the mesh in use; None where they do not divide the rows."""
  free = _free_axes()
  axes = tuple(name for name in BATCH_AXES if name in free)
  return None if count % math.prod(free[name] for name in axes) else axes


def _place(x: Array, others: list[str | None]) -> Array:
  axes = _axes_of_rows(x.shape[0])
  if math.prod(_free_axes().values()) == 1 or axes is None:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *others))


def _fill(q: Array, parts: int) -> Array:
  """Zeros after the queries, up to a number that the parts divide."""
  return jnp.pad(q, ((0, 0), (0, -q.shape[1] % parts), (0, 0), (0, 0)))


def attend(
  run: Attend,
  q: Float[Array, "B N H D"],
  k: Float[Array, "B M H D"],
  v: Float[Array, "B M H D"],
  *,
  least: int = LEAST,
) -> Float[Array, "B N H D"]:
  """`run(q, k, v)`, its queries cut over the mesh where heads cannot be.

  Args:
    run: attention; each row of its result depends on that row of q alone.
    q: queries; zeros are added where they do not divide, and dropped again.
    k: keys.
    v: values.
    least: tokens from which on it is worth it.
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

  For kernels, which a compiler cannot cut. Rows are cut over the batch axes,
  and over `tensor` heads, or queries where heads do not divide.

  Args:
    run: attention; each head and row of its result depends on that head and
      row of q alone.
    q: queries; zeros are added where they do not divide, and dropped again.
    k: keys.
    v: values.
    mask: False for keys that nobody attends to.
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
  mapped = jax.shard_map(
    run, in_specs=(q_spec, kv_spec, kv_spec, PartitionSpec(batch)),
    out_specs=q_spec, axis_names=set(free), check_vma=False,
  )  # fmt: skip
  return mapped(q, k, v, mask)[:, :tokens]
