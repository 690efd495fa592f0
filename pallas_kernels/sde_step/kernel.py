"""The step on blocks: one read of each operand, one write of the result.

Latents are [B, S, 128]: a sample's elements in rows of 128. The grid is
(samples, blocks of rows).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.compat import pallas as pl


def body(
  coefficients, x_t, v, other, *outputs, rows: int, draw: bool, running: bool
):
  """One block of one sample.

  Args:
    coefficients: float32 [1, 1, 4]: c_x, c_v, std, log_scale.
    x_t: [1, S', 128].
    v: [1, S', 128].
    other: [1, S', 128]: noise, or the stored next latents.
    *outputs: next latents [1, S', 128] if `draw`; squared deviations, summed
      into [1, 1, 128] over the blocks of a sample if `running` (they then run
      in order), else [1, 1, 1] of this block.
    rows: S; a block may reach beyond it.
    draw: computes the next latents; else they are given.
    running: see above.
  """
  c_x, c_v, std = (coefficients[0, :, i : i + 1] for i in range(3))
  mean = c_x * x_t[0].astype(jnp.float32) + c_v * v[0].astype(jnp.float32)
  x_next = other[0].astype(jnp.float32)
  if draw:
    rounded = (mean + std * x_next).astype(outputs[0].dtype)
    outputs[0][0] = rounded
    x_next = rounded.astype(jnp.float32)
  squares = jnp.square(x_next - mean)
  height = x_t.shape[1]
  if rows % height:
    row = jax.lax.broadcasted_iota(jnp.int32, squares.shape, 0)
    row += pl.program_id(1) * height
    squares = jnp.where(row < rows, squares, 0.0)
  total = outputs[-1]
  if not running:
    total[...] = jnp.sum(squares).reshape(1, 1, 1)
    return

  @pl.when(pl.program_id(1) == 0)
  def _():
    total[...] = jnp.zeros(total.shape, jnp.float32)

  total[0] += jnp.sum(squares, axis=0, keepdims=True)
