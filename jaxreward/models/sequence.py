"""Attention cut over the `tensor` axis of the mesh in use, by tokens.

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
from jax.sharding import PartitionSpec
from jaxtyping import Float

from jaxreward.types import Array

AXIS = "tensor"
LEAST = 256  # tokens, below which logits are small
_FREE = PartitionSpec.UNCONSTRAINED

Attend = Callable[[Array, Array, Array], Array]


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
  cut = lambda x, axis: jax.lax.with_sharding_constraint(
    x, PartitionSpec(_FREE, axis, None, None)
  )
  padded = jnp.pad(q, ((0, 0), (0, -tokens % parts), (0, 0), (0, 0)))
  y = run(cut(padded, AXIS), cut(k, None), cut(v, None))
  return cut(y, AXIS)[:, :tokens]
