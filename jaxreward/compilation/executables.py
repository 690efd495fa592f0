"""Compiles a program for possibly absent devices, and measures it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxreward.compilation import flops, hlo, roofline
from jaxreward.compilation.topology import GIB, Topology

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = r"([\d.]+)([KMGT])"


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes per device.

  Attributes:
    argument: of the inputs.
    output: of the results that do not alias an input.
    temporary: peak of temporary buffers.
    code: of the program itself.
    beside: of the run's other arrays on the device.
    required: what the compiler asked for if it refused the program; else 0.
  """

  argument: float = 0.0
  output: float = 0.0
  temporary: float = 0.0
  code: float = 0.0
  beside: float = 0.0
  required: float = 0.0

  @property
  def total(self) -> float:
    """The sum, or `required` if the compiler refused."""
    program = self.argument + self.output + self.temporary + self.code
    return max(self.required, program) + self.beside


@dataclasses.dataclass(frozen=True)
class Report:
  """One program on one mesh.

  Attributes:
    memory: per device.
    counted_flops: of the program as written, on all devices together.
    once_flops: the compiler's cost analysis, per device, loop bodies once.
    once_bytes: the same, bytes accessed.
    costs: read from the compiled text, per device; None if it was refused.
    compile_seconds: on this machine.
    result: output shapes with shardings, for the next program.
  """

  memory: Memory
  counted_flops: float
  once_flops: float = 0.0
  once_bytes: float = 0.0
  costs: hlo.Costs | None = None
  compile_seconds: float = 0.0
  result: Any = None

  def fits(self, limit: float) -> bool:
    """Whether it compiled and its memory stays within the limit."""
    return self.costs is not None and not (limit and self.memory.total > limit)

  def seconds(self, topology: Topology) -> roofline.Seconds | None:
    """Bounds on its time; None if it was not compiled or peaks are unknown."""
    if topology.chip is None or self.costs is None:
      return None
    return roofline.seconds(self.costs, topology.chip)


@contextlib.contextmanager
def effort(level: float) -> Iterator[None]:
  """Sets the compiler's effort within, from -1 to 1; 0 is its default.

  At -1, programs of public sizes compile three to four times as fast, with
  about the same memory, matrix products and communication, but more reads and
  writes.
  """
  names = "jax_exec_time_optimization_effort", "jax_memory_fitting_effort"
  before = [jax.config.values[name] for name in names]
  for name in names:
    jax.config.update(name, level)
  try:
    yield
  finally:
    for name, value in zip(names, before, strict=True):
      jax.config.update(name, value)


def build(traced: Any, axes: dict[str, int], alive: float = 0.0) -> Report:
  """Compiles and measures.

  Args:
    traced: `jitted.trace(...)` on shapes that carry shardings.
    axes: names and sizes of the mesh, in the order of its devices.
    alive: bytes per device that the run holds by then, including arguments.
  """
  flop_count = flops.count(traced.jaxpr)
  start = time.monotonic()
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    memory = Memory(required=required_bytes(str(error)))
    return Report(
      memory, flop_count, compile_seconds=time.monotonic() - start,
      result=_placed(traced.out_info),
    )  # fmt: skip
  costs = hlo.read(compiled.as_text(), axes)
  inside = flops.count(traced.jaxpr, kernels_only=True)
  costs.kernel_flops = inside / math.prod(axes.values())
  usage = compiled.memory_analysis()
  once = compiled.cost_analysis() or {}
  return Report(
    memory=Memory(
      argument=usage.argument_size_in_bytes,
      output=usage.output_size_in_bytes - usage.alias_size_in_bytes,
      temporary=usage.temp_size_in_bytes,
      code=usage.generated_code_size_in_bytes,
      beside=max(alive - usage.argument_size_in_bytes, 0.0),
    ),
    counted_flops=flop_count,
    once_flops=once.get("flops", 0.0),
    once_bytes=once.get("bytes accessed", 0.0),
    costs=costs,
    compile_seconds=time.monotonic() - start,
    result=_placed(traced.out_info, compiled.output_shardings),
  )


def _placed(shapes: Any, shardings: Any = None) -> Any:
  """Output shapes for the next program."""
  if shardings is None:
    return shapes
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return jax.tree.map(place, shapes, shardings)


def required_bytes(message: str) -> float:
  """Bytes that the TPU compiler asked for, from its error message.

  It says "Used 40.67G of 15.75G hbm" of a whole program, and "required for HLO
  temporaries (65.24G) exceeds available HBM (15.75G)" of a part of one.
  """
  match = re.search(rf"Used {_NUMBER} of", message) or re.search(
    rf"\({_NUMBER}\) exceeds available", message
  )
  return float(match[1]) * _UNITS[match[2]] if match else 0.0


def gib(count: float) -> str:
  """Bytes as GiB, with significant digits only."""
  value = count / GIB
  return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
