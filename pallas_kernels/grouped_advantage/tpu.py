"""Blocks of the advantage and its loss on a TPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_tpu as pltpu
from jaxreward.types import Array
from pallas_kernels import tiling
from pallas_kernels.grouped_advantage import kernel
from pallas_kernels.grouped_advantage.reference import STATISTICS, Options

ELEMENTS = 1 << 17  # of one operand in a block: 512 KiB of float32


def run(
  signal: Float[Array, "G P"],
  mask: Float[Array, "G P"],
  scale: Float[Array, "1 P"],
  *cubes: Float[Array, "T G P"] | None,
  options: Options,
  with_gradient: bool,
  interpret: bool = False,
) -> tuple[Array, ...]:
  """`reference.run` in one launch; same operands, same results.

  Blocks reach beyond odd numbers of prompts and steps, without padding.
  Prompts are on the lanes: log-probabilities stored with steps last are
  transposed by the compiler first.
  """
  members, prompts = signal.shape
  operands = [x for x in cubes if x is not None]
  steps = operands[0].shape[0] if operands else 1
  width = min(prompts, tiling.LANES)
  plane = tiling.round_up(members, tiling.SUBLANES) * tiling.LANES
  height = min(steps, max(ELEMENTS // plane, 1))
  blocks = pl.cdiv(steps, height)
  plane_spec = pl.BlockSpec((members, width), lambda p, t: (0, p))
  row = pl.BlockSpec((1, width), lambda p, t: (0, p))
  cube = pl.BlockSpec((height, members, width), lambda p, t: (t, 0, p))
  sums = pl.BlockSpec((1, tiling.SUBLANES, width), lambda p, t: (t, 0, p))
  float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  out_specs, out_shape = [plane_spec], [float32(members, prompts)]
  if operands:
    out_specs += [sums] + [cube] * with_gradient
    out_shape += [float32(blocks, tiling.SUBLANES, prompts)]
    out_shape += [float32(steps, members, prompts)] * with_gradient
  advantage, *outputs = pl.pallas_call(
    kernel.make(options, steps, len(operands)),
    grid=(pl.cdiv(prompts, width), blocks),
    in_specs=[plane_spec, plane_spec, row] + [cube] * len(operands),
    out_specs=out_specs,
    out_shape=out_shape,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary")
    ),
    interpret=interpret,
    name="grouped_advantage",
  )(signal, mask, scale, *operands)
  if outputs:
    outputs[0] = jnp.sum(outputs[0], axis=0)[: len(STATISTICS)]
  return advantage, *outputs
