"""Blocks of the step on a TPU."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_tpu as pltpu
from jaxreward.types import Array
from pallas_kernels import tiling
from pallas_kernels.sde_step import kernel

ROWS = 1024  # of 128 elements: 512 KiB of float32 per operand and block


def run(
  coefficients: Float[Array, "B 4"],
  x_t: Float[Array, "B D"],
  v: Float[Array, "B D"],
  other: Float[Array, "B D"],
  *,
  draw: bool,
  interpret: bool = False,
) -> tuple[Array, ...]:
  """([B, D] next latents, only if `draw`; sums of squared deviations [B]).

  The latents are read as rows of 128 elements in their logical order: D that
  is no multiple of 128 costs a copy of each operand, and so does a producer
  or a reader that lays them out in another order.
  """
  samples, elements = x_t.shape
  width = tiling.round_up(elements, tiling.LANES)
  rows = width // tiling.LANES
  height = min(rows, ROWS)
  to_blocks = lambda x: tiling.pad_to(x, {1: width}).reshape(samples, rows, -1)
  latents = pl.BlockSpec((1, height, tiling.LANES), lambda b, s: (b, s, 0))
  row = lambda n: pl.BlockSpec((1, 1, n), lambda b, s: (b, 0, 0))
  shape = (samples, rows, tiling.LANES)
  sums = jax.ShapeDtypeStruct((samples, 1, tiling.LANES), jnp.float32)
  outputs = pl.pallas_call(
    functools.partial(kernel.body, rows=rows, draw=draw, running=True),
    grid=(samples, pl.cdiv(rows, height)),
    in_specs=[row(4), latents, latents, latents],
    out_specs=[latents] * draw + [row(tiling.LANES)],
    out_shape=[jax.ShapeDtypeStruct(shape, x_t.dtype)] * draw + [sums],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary")
    ),
    interpret=interpret,
    name="sde_step" if draw else "sde_transition",
  )(coefficients[:, None], to_blocks(x_t), to_blocks(v), to_blocks(other))
  *latents, squares = outputs
  next_latents = [x.reshape(samples, width)[:, :elements] for x in latents]
  return *next_latents, jnp.sum(squares, axis=(1, 2))
