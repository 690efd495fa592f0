"""The compiler's text: loops multiplied, collectives named, flops exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward.compilation import flops, hlo
from jaxreward.training import mesh as mesh_lib

AXES = {"data": 2, "fsdp": 4, "tensor": 1}

# A scan of 5 turns as the TPU compiler writes it: no trip count, a layout with
# tiles, one buffer in the chip's own memory, an asynchronous collective that
# stands in three fusions, and a reduce-scatter as a fused all-reduce.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%start (p.0: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %p.0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[16,8]{1,0} all-gather(%p.0), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  ROOT %custom-call.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%done (p.1: bf16[4,8]) -> bf16[16,8] {
  %p.1 = bf16[4,8]{1,0} parameter(0)
  %all-gather.2 = bf16[16,8]{1,0} all-gather(%p.1), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  ROOT %custom-call.2 = bf16[16,8]{1,0} custom-call(%all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.3 (p.2: f32[16,8]) -> f32[4,8] {
  %p.2 = f32[16,8]{1,0} parameter(0)
  %all-reduce.4 = f32[16,8]{1,0} all-reduce(%p.2), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  ROOT %dynamic-slice.9 = f32[4,8]{1,0} dynamic-slice(%all-reduce.4, %zero, %zero), dynamic_slice_sizes={4,8}
}

%take (p.3: f32[5,4,8], p.4: s32[]) -> f32[4,8] {
  %p.3 = f32[5,4,8]{2,1,0} parameter(0)
  %p.4 = s32[] parameter(1)
  ROOT %dynamic-slice.5 = f32[4,8]{1,0} dynamic-slice(%p.3, %p.4), dynamic_slice_sizes={1,4,8}
}

%body (carry: (s32[], bf16[4,8], f32[5,4,8])) -> (s32[], bf16[4,8], f32[5,4,8]) {
  %carry = (s32[]{:T(128)}, bf16[4,8]{1,0}, /*index=2*/f32[5,4,8]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %copy.1 = s32[]{:T(128)S(6)} copy(%i)
  %x = bf16[4,8]{1,0} get-tuple-element(%carry), index=1
  %stack = f32[5,4,8]{2,1,0} get-tuple-element(%carry), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%copy.1, %one)
  %slice.1 = f32[4,8]{1,0:T(8,128)S(1)} fusion(%stack, %copy.1), kind=kLoop, calls=%take, metadata={op_name="jit(f)/while/body/transpose(jvp(Net))/up/dynamic_slice" source_line=3}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %begun = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) fusion(%x), kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%start
  %ended = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%done
  %dot.1 = f32[16,8]{1,0} dot(%ended, %slice.1), lhs_contracting_dims={1}, rhs_contracting_dims={1}, backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
  %reduced = f32[4,8]{1,0} fusion(%dot.1), kind=kCustom, calls=%all-reduce-scatter.3
  %kernel = f32[4,8]{1,0} custom-call(%reduced), custom_call_target="tpu_custom_call"
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}, f32[5,4,8]{2,1,0}) tuple(%next, %x, %stack)
}

%condition (carry.1: (s32[], bf16[4,8], f32[5,4,8])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}, f32[5,4,8]{2,1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %j = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (a: bf16[4,8], b: f32[5,4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = f32[5,4,8]{2,1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %started = s32[]{:T(128)} copy(%zero)
  %tuple.2 = (s32[]{:T(128)}, bf16[4,8]{1,0}, f32[5,4,8]{2,1,0}) tuple(%started, %a, %b)
  %while.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}, f32[5,4,8]{2,1,0}) while(%tuple.2), condition=%condition, body=%body
  %out = bf16[4,8]{1,0} get-tuple-element(%while.1), index=1
  ROOT %all-reduce.6 = bf16[4,8]{1,0} all-reduce(%out), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'a'}, use_global_device_ids=true, to_apply=%add
}
"""


def test_a_tpu_loop_is_multiplied_and_its_collectives_counted_once():
  costs = hlo.read(TPU, AXES)
  assert costs.unknown_loops == 0
  assert costs.flops == 5 * 2 * 16 * 8 * 8
  assert costs.kernels == 5
  # The estimate of the product is the number that says there is none.
  assert costs.cycles == 5 * 100
  assert costs.by_operation == {"Net/up/dynamic_slice": 500}
  assert costs.collectives == {
    ("all-gather", "fsdp"): hlo.Traffic(5, 5 * 64, 5 * 64 * 3),
    ("reduce-scatter", "fsdp"): hlo.Traffic(5, 5 * 512, 5 * 512 * 3 / 4),
    ("all-reduce", "data"): hlo.Traffic(1, 64, 2 * 64 / 2),
  }
  assert costs.sent == 5 * 192 + 5 * 384 + 64


def test_bytes_are_those_of_the_main_memory_and_of_slices():
  sliced = 4 * 8 * 4  # read from the stack; written into the chip's memory
  gathered = 256  # the operand is handed on, not copied
  product = 256 + 512  # the slice is read on the chip
  scattered, kernel = 512 + 128, 128 + 128
  counter = 4 + (4 + 4)  # copied to the chip; one added there
  compared = 4 + 4 + 1
  body = sliced + gathered + product + scattered + kernel + counter
  entry = (4 + 4) + (64 + 64)  # the start of the counter, the last reduction
  costs = hlo.read(TPU, AXES)
  assert costs.bytes == 5 * (body + compared) + entry


def test_a_stride_shortens_the_loop_and_an_unknown_end_is_counted():
  double = TPU.replace("constant(1)", "constant(2)")
  assert hlo.read(double, AXES).kernels == 3  # 0, 2, 4
  late = TPU.replace(
    "%zero = s32[]{:T(128)} constant(0)", "%zero = s32[]{:T(128)} constant(3)"
  )
  assert hlo.read(late, AXES).kernels == 2
  unknown = hlo.read(TPU.replace("direction=LT", "direction=NE"), AXES)
  assert (unknown.kernels, unknown.unknown_loops) == (1, 1)


def test_a_mesh_of_another_size_is_not_named():
  found = hlo.read(TPU, {"data": 4}).collectives
  assert set(found) == {
    ("all-gather", "4 devices"),
    ("reduce-scatter", "4 devices"),
    ("all-reduce", "2 devices"),
  }


def compiled_text(function, *shapes):
  return jax.jit(function).lower(*shapes).compile().as_text()


def shape(*dims, mesh=None, spec=()):
  place = NamedSharding(mesh, PartitionSpec(*spec)) if mesh else None
  return jax.ShapeDtypeStruct(dims, jnp.float32, sharding=place)


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make_mesh(2, 4, 1, devices=jax.devices()[:8])


def test_a_real_scan_gathers_its_layers_over_fsdp(mesh):
  depth, width, rows = 6, 64, 32

  def run(x, stack):
    def layer(x, kernel):
      kernel = jax.lax.with_sharding_constraint(kernel, PartitionSpec())
      return jnp.tanh(x @ kernel), None

    return jax.lax.scan(layer, x, stack)[0]

  with jax.set_mesh(mesh):
    text = compiled_text(
      run,
      shape(rows, width, mesh=mesh, spec=(("data", "fsdp"),)),
      shape(depth, width, width, mesh=mesh, spec=(None, "fsdp")),
    )
  costs = hlo.read(text, dict(mesh.shape))
  assert costs.unknown_loops == 0
  assert costs.flops == depth * 2 * (rows // 8) * width * width
  size = depth * (width // 4) * width * 4
  traffic = costs.collectives["all-gather", "fsdp"]
  assert (traffic.size, traffic.sent) == (size, 3 * size)


def test_a_real_sum_is_reduced_over_all_that_share_it(mesh):
  with jax.set_mesh(mesh):
    text = compiled_text(
      lambda x: x.sum(0), shape(16, 10, mesh=mesh, spec=(("data", "fsdp"),))
    )
  traffic = hlo.read(text, dict(mesh.shape)).collectives
  assert traffic == {
    ("all-reduce", "data x fsdp"): hlo.Traffic(1, 40, 2 * 40 * 7 / 8)
  }


def test_compiled_flops_are_those_of_the_program():
  def step(x, a, b):
    loss = lambda a: (jnp.tanh(x @ a) @ b).sum()
    return jax.grad(loss)(a)

  shapes = (shape(8, 16), shape(16, 32), shape(32, 4))
  traced = jax.jit(step).trace(*shapes)
  text = traced.lower().compile().as_text()
  # The loss itself is not asked for: its last product is left out.
  last = 2 * 8 * 32 * 4
  found = hlo.read(text).flops
  assert found in (flops.count(traced.jaxpr), flops.count(traced.jaxpr) - last)


def convolution_by_hand(size, taps, out, stride, dilate, low):
  """Pairs of a place and a tap that meet a number, one by one."""
  return sum(
    0 <= place * stride + tap - low <= (size - 1) * dilate
    and (place * stride + tap - low) % dilate == 0
    for place in range(out)
    for tap in range(taps)
  )


@pytest.mark.parametrize(
  ("size", "taps", "stride", "dilate", "low", "high"),
  [
    (9, 3, 1, 1, 0, 0),
    (9, 3, 2, 1, 1, 1),
    (5, 4, 1, 2, 3, 1),
    (4, 4, 3, 4, 0, 0),
  ],
)
def test_windows_over_edges_and_holes_do_not_count(
  size, taps, stride, dilate, low, high
):
  out = ((size - 1) * dilate + 1 + low + high - taps) // stride + 1
  text = f"""\
HloModule m

ENTRY %main (a: f32[2,{size},3], k: f32[{taps},3,5]) -> f32[2,{out},5] {{
  %a = f32[2,{size},3]{{2,1,0}} parameter(0)
  %k = f32[{taps},3,5]{{2,1,0}} parameter(1)
  ROOT %c = f32[2,{out},5]{{2,1,0}} convolution(%a, %k), window={{size={taps} stride={stride} pad={low}_{high} lhs_dilate={dilate}}}, dim_labels=b0f_0io->b0f
}}
"""
  pairs = convolution_by_hand(size, taps, out, stride, dilate, low)
  assert hlo.read(text).flops == 2 * pairs * 2 * 5 * 3


def test_sizes_of_types():
  sizes = {"bf16": 2, "f32": 4, "s8": 1, "pred": 1, "f8e4m3fn": 1, "token": 0}
  for dtype, size in sizes.items():
    assert hlo.Shape(dtype, (3,), True).size == 3 * size
  assert hlo.Shape("s4", (3,), True).size == 2
  assert np.prod(hlo.Shape("f32", (), True).dims) == 1
