"""What every objective does first: drop masked rows, reduce to one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.types import Array, ArrayLike


def keep(mask: Bool[ArrayLike, "B"], *arrays: ArrayLike) -> tuple[Array, ...]:
  """Arrays [B, ...] in float32 or wider, with zeros in masked rows.

  Selecting the inputs, not only the result, keeps whatever padding holds out
  of the gradient too.
  """
  return tuple(_select(mask, _wide(x)) for x in arrays)


def mean_square(x: Float[ArrayLike, "B ..."]) -> Float[Array, "B"]:
  """Mean of x^2 over all axes but the first."""
  return jnp.mean(jnp.square(x), axis=tuple(range(1, jnp.ndim(x))))


def per_row(x: ArrayLike | np.floating | float, ndim: int) -> Array:
  """A scalar or [B], shaped to broadcast against an array of `ndim` axes."""
  x = jnp.asarray(x)
  return x if x.ndim == 0 else x.reshape(x.shape + (1,) * (ndim - x.ndim))


def by_sample(
  columns: Mapping[str, Array],
) -> tuple[dict[str, Array], Array, Callable[[Array], Array]]:
  """Rows of an optimizer step gathered by their samples.

  Args:
    columns: arrays of any one shape, of R rows; "sample" numbers the sample of
      each row, and "valid" is False for padding.

  Returns:
    ({name: [R]}, place of each row's sample [R], a function that adds valid rows
    [R] up by sample, [R], with zeros behind the last one).
  """
  flat = {k: x.ravel() for k, x in columns.items()}
  size = flat["sample"].size
  label = jnp.where(flat["valid"], flat["sample"], -1)
  _, place = jnp.unique(label, return_inverse=True, size=size, fill_value=-2)
  place = place.ravel()
  total = lambda x: jax.ops.segment_sum(
    jnp.where(flat["valid"], x, 0.0), place, size
  )
  return flat, place, total


def _wide(x):
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _select(mask, x):
  return x if x.ndim == 0 else jnp.where(per_row(mask, x.ndim), x, 0.0)
