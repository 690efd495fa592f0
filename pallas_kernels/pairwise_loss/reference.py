"""Reference sums over pairs, with the full matrix of pairs."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array


def run(
  fields: Float[Array, "N K G"], tile: Callable[..., tuple[Array, ...]]
) -> tuple[Float[Array, "N G"], ...]:
  """Sums of a tile function (see `tiles`) over the other candidates.

  Args:
    fields: of the candidates, float32; NaN in the last where one is absent.
    tile: terms of a pair.
  """
  group = fields.shape[2]
  own = tuple(x[:, None, :] for x in jnp.moveaxis(fields, 1, 0))
  other = tuple(x[:, :, None] for x in jnp.moveaxis(fields, 1, 0))
  distinct = ~jnp.eye(group, dtype=bool)[None]
  return tuple(jnp.sum(x, axis=1) for x in tile(own, other, distinct))
