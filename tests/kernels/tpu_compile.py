"""Compiles the cases for a TPU that is not there; run as a program.

Usage: python -m tests.kernels.tpu_compile TOPOLOGY [CASE ...]; writes one JSON
object per case: {"case", "devices", "kernels", "temporary", "error"}.
"""

import json
import math
import sys

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.kernels import programs


def compile_case(case, devices):
  """Facts of one case, its first axis shared by all devices that divide it."""
  program, operands = programs.TPU_CASES[case]
  rows = operands[0].shape[0]
  count = math.gcd(rows, len(devices))
  mesh = Mesh(
    np.array(devices[:count]).reshape(count, 1),
    ("data", "fsdp"),
    axis_types=(AxisType.Auto,) * 2,
  )
  placed = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  operands = [
    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed) for x in operands
  ]
  with jax.set_mesh(mesh):
    compiled = jax.jit(program("auto")).lower(*operands).compile()
  text = compiled.as_text()
  return {
    "devices": count,
    "kernels": text.count('custom_call_target="tpu_custom_call"'),
    "temporary": compiled.memory_analysis().temp_size_in_bytes,
  }


def main(topology, *cases):
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  for case in cases or programs.TPU_CASES:
    try:
      facts = compile_case(case, devices)
    except Exception as error:
      facts = {"error": f"{type(error).__name__}: {error}"[:2000]}
    sys.stdout.write(json.dumps({"case": case} | facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
  main(*sys.argv[1:])
