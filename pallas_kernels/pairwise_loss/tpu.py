"""Tiles of pairs on a TPU."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_tpu as pltpu
from jaxreward.types import Array
from pallas_kernels import tiling
from pallas_kernels.pairwise_loss import kernel

WIDTH = 512  # own candidates of a block, at most
STEP = 32  # other candidates of a tile, at most
PAIRS = WIDTH * STEP  # of a tile


def run(
  fields: Float[Array, "N K G"],
  tile: Callable[..., tuple[Array, ...]],
  *,
  sums: int,
  interpret: bool = False,
) -> tuple[Float[Array, "N G"], ...]:
  """`reference.run` by tiles; `sums` is how many the tile returns."""
  groups, count, members = fields.shape
  step = min(tiling.round_up(members, tiling.SUBLANES), STEP)
  width = min(tiling.round_up(members, step), WIDTH)
  size = tiling.round_up(members, width)
  lanes = tiling.round_up(width, tiling.LANES)
  several = min(max(PAIRS // (lanes * step), 1), groups)
  fields = tiling.pad_to(fields, {2: size}, jnp.nan)
  columns = jnp.swapaxes(fields, 1, 2)
  out = pl.BlockSpec((several, 1, width), lambda n, i: (n, 0, i))
  shape = jax.ShapeDtypeStruct((groups, 1, size), jnp.float32)
  outputs = pl.pallas_call(
    functools.partial(kernel.body, tile=tile, step=step),
    grid=(pl.cdiv(groups, several), size // width),
    in_specs=[
      pl.BlockSpec((several, count, width), lambda n, i: (n, 0, i)),
      pl.BlockSpec((several, size, count), lambda n, i: (n, 0, 0)),
    ],
    out_specs=[out] * sums,
    out_shape=[shape] * sums,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel")
    ),
    interpret=interpret,
    name="pairwise_sums",
  )(fields, columns)
  return tuple(x[:, 0, :members] for x in outputs)
