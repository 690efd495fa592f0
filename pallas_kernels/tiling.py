"""Sizes of blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

LANES = 128  # of a TPU register's last axis
SUBLANES = 8  # of its other one, in float32


def round_up(n: int, multiple: int) -> int:
  """Smallest multiple that is not below n."""
  return -(-n // multiple) * multiple


def power_of_two(n: int) -> int:
  """Smallest power of two that is not below n; Triton takes no other size."""
  return 1 << max(n - 1, 0).bit_length()


def pad_to(
  x: jax.Array, sizes: dict[int, int], value: float = 0.0
) -> jax.Array:
  """x with `value` added at the end of the given axes, up to their sizes."""
  widths = [(0, sizes.get(axis, n) - n) for axis, n in enumerate(x.shape)]
  if not any(extra for _, extra in widths):
    return x
  return jnp.pad(x, widths, constant_values=value)
