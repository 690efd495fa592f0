"""Tiles of pairs on a GPU, through Triton."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_triton as plgpu
from jaxreward.types import Array
from pallas_kernels import tiling
from pallas_kernels.pairwise_loss import kernel

WIDTH = 64  # own candidates of a program, at most
STEP = 32  # other candidates of a tile, at most


def run(
  fields: Float[Array, "N K G"],
  tile: Callable[..., tuple[Array, ...]],
  *,
  sums: int,
  interpret: bool = False,
) -> tuple[Float[Array, "N G"], ...]:
  """`reference.run` by tiles; `sums` is how many the tile returns."""
  groups, count, members = fields.shape
  width = min(tiling.power_of_two(members), WIDTH)
  step = min(width, STEP)
  size = tiling.round_up(members, width)
  fields = tiling.pad_to(fields, {2: size}, jnp.nan)
  columns = jnp.swapaxes(fields, 1, 2)
  out = pl.BlockSpec((1, 1, width), lambda n, i: (n, 0, i))
  shape = jax.ShapeDtypeStruct((groups, 1, size), jnp.float32)
  outputs = pl.pallas_call(
    functools.partial(kernel.body, tile=tile, step=step),
    grid=(groups, size // width),
    in_specs=[
      pl.BlockSpec((1, count, width), lambda n, i: (n, 0, i)),
      pl.BlockSpec((1, size, count), lambda n, i: (n, 0, 0)),
    ],
    out_specs=[out] * sums,
    out_shape=[shape] * sums,
    compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
    interpret=interpret,
    name="pairwise_sums",
  )(fields, columns)
  return tuple(x[:, 0, :members] for x in outputs)
