"""Blocks of the attention on a TPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_tpu as pltpu
from jaxreward.types import Array
from pallas_kernels import tiling
from pallas_kernels.stream_attention import kernel
from pallas_kernels.stream_attention.kernel import Sizes

MIB = 2**20


def heads_of_cell(heads: int, width: int) -> int:
  """Heads that fill the lanes of a register, or all of them; 0 if neither."""
  if width % tiling.LANES == 0:
    return 1
  count = tiling.LANES // width
  if count * width == tiling.LANES and heads % count == 0:
    return count
  return heads if heads * width <= tiling.LANES else 0


def run(
  streams: Sequence[tuple[Array, Array, Array]],
  shared: Sequence[Array],
  residuals: Sequence[Array] = (),
  *,
  sizes: Sizes,
  interpret: bool = False,
) -> list[Array]:
  """Outputs of each stream and logarithms of sums; or gradients, see `kernel`.

  Args:
    streams: q, k, v [B, N_i, F] of each.
    shared: scales [2 S, heads * D], cosines and sines [N, heads * D], float32;
      those that `sizes` asks for.
    residuals: outputs, cotangents and logarithms of sums, for gradients.
    sizes: of a cell.
    interpret: on any backend.
  """
  rows, features = streams[0][0].shape[0], streams[0][0].shape[2]
  cells, lanes = features // sizes.lanes, sizes.lanes
  dtype = streams[0][2].dtype
  per_row = lambda n, m: (
    pl.BlockSpec((1, 1, n, m), lambda b, c: (b, c, 0, 0)),
    jax.ShapeDtypeStruct((rows, cells, n, m), jnp.float32),
  )
  tokens = lambda n: pl.BlockSpec((1, n, lanes), lambda b, c: (b, 0, c))
  whole = lambda x: pl.BlockSpec(x.shape, lambda b, c: (0, 0))
  like = lambda n: jax.ShapeDtypeStruct((rows, n, features), dtype)
  flat = [x for stream in streams for x in stream]
  in_specs = [tokens(x.shape[1]) for x in flat] + [whole(x) for x in shared]
  sums_spec, sums = per_row(sizes.heads, sizes.total)
  scratch = lambda dtype: pltpu.VMEM((sizes.total, lanes), dtype)
  if not residuals:
    body, products, scratches = kernel.forward, 2, [scratch(dtype)] * 4
    out_specs = [tokens(n) for n in sizes.tokens] + [sums_spec]
    out_shape = [like(n) for n in sizes.tokens] + [sums]
  else:
    body, products = kernel.backward, 5
    in_specs += [tokens(x.shape[1]) for x in residuals[:-1]] + [sums_spec]
    out_specs = [tokens(n) for n in sizes.tokens for _ in range(3)]
    out_shape = [like(n) for n in sizes.tokens for _ in range(3)]
    if sizes.is_normed:
      spec, shape = per_row(2 * len(sizes.tokens), lanes)
      out_specs.append(spec)
      out_shape.append(shape)
    scratches = [scratch(dtype)] * 5 + [scratch(jnp.float32)] * 3
  operands = [*flat, *shared, *residuals]
  pairs = sum(sizes.tokens) ** 2 * sizes.heads * cells * rows
  call = pl.pallas_call(
    functools.partial(body, sizes=sizes),
    grid=(rows, cells),
    in_specs=in_specs,
    out_specs=out_specs,
    out_shape=out_shape,
    scratch_shapes=scratches,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"),
      vmem_limit_bytes=_memory(sizes, bool(residuals)),
    ),
    # What is due: no padding, and a head's products over its own features.
    cost_estimate=pl.CostEstimate(
      flops=2 * products * pairs * sizes.width,
      transcendentals=pairs,
      bytes_accessed=sum(
        math.prod(x.shape) * x.dtype.itemsize for x in (*operands, *out_shape)
      ),
    ),
    interpret=interpret,
    name="stream_attention" + "_backward" * bool(residuals),
  )
  return list(call(*operands))


def _memory(sizes: Sizes, is_backward: bool) -> int:
  """Bytes to ask for: blocks twice, scratch, and logits of a block."""
  row = sizes.total * max(sizes.lanes, tiling.LANES)
  blocks = 2 * row * 2 * (9 if is_backward else 4) * len(sizes.tokens)
  blocks += 4 * row * 4 * sizes.is_rotated
  scratch = row * (5 * 4 + 3 * 4 if is_backward else 4 * 4)
  logits = 0 if is_backward else row * 4 * 6
  return max(16 * MIB, int(1.3 * (blocks + scratch + logits)))
