"""Blocks of the advantage and its loss on a GPU, through Triton."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.compat import pallas as pl
from jaxreward.compat import pallas_triton as plgpu
from jaxreward.types import Array
from pallas_kernels import tiling
from pallas_kernels.grouped_advantage import kernel
from pallas_kernels.grouped_advantage.reference import STATISTICS, Options

ELEMENTS = 1 << 12  # of one operand in a block
WIDTH = 32  # prompts of a block, at most


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

  Members, steps and prompts are padded to powers of two under the mask.
  """
  members, prompts = signal.shape
  operands = [x for x in cubes if x is not None]
  steps = operands[0].shape[0] if operands else 1
  group = tiling.power_of_two(members)
  width = min(tiling.power_of_two(prompts), WIDTH)
  height = max(ELEMENTS // (group * width), 1)
  height = min(tiling.power_of_two(steps), 1 << (height.bit_length() - 1))
  blocks, columns = pl.cdiv(steps, height), tiling.round_up(prompts, width)
  plane = pl.BlockSpec((group, width), lambda p, t: (0, p))
  row = pl.BlockSpec((1, width), lambda p, t: (0, p))
  cube = pl.BlockSpec((height, group, width), lambda p, t: (t, 0, p))
  sums = pl.BlockSpec((1, tiling.SUBLANES, width), lambda p, t: (t, 0, p))
  planes = [tiling.pad_to(x, {0: group, 1: columns}) for x in (signal, mask)]
  planes += [tiling.pad_to(scale, {1: columns})]
  sizes = {0: blocks * height, 1: group, 2: columns}
  operands = [tiling.pad_to(x, sizes) for x in operands]
  float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  out_specs, out_shape = [plane], [float32(group, columns)]
  if operands:
    out_specs += [sums] + [cube] * with_gradient
    out_shape += [float32(blocks, tiling.SUBLANES, columns)]
    out_shape += [float32(blocks * height, group, columns)] * with_gradient
  advantage, *outputs = pl.pallas_call(
    kernel.make(options, steps, len(operands)),
    grid=(columns // width, blocks),
    in_specs=[plane, plane, row] + [cube] * len(operands),
    out_specs=out_specs,
    out_shape=out_shape,
    compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
    interpret=interpret,
    name="grouped_advantage",
  )(*planes, *operands)
  if outputs:
    outputs[0] = jnp.sum(outputs[0], axis=0)[: len(STATISTICS), :prompts]
  if len(outputs) > 1:
    outputs[1] = outputs[1][:steps, :members, :prompts]
  return advantage[:members, :prompts], *outputs
