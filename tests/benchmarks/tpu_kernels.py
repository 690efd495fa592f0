"""The small kernels' programs with and without them, by the TPU compiler.

python -m tests.benchmarks.tpu_kernels v5e-16
"""

import sys

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward.compilation import executables, topology
from jaxreward.training import mesh as mesh_lib
from tests.kernels import programs

CASES = ("policy", "policy_large", "pairs_4096", "wins", "draw", "replay")


def main(name):
  pod = topology.find(name)
  topology.require(pod)
  mesh = mesh_lib.make_mesh(1, devices=topology.devices(pod)[:1])
  place = NamedSharding(mesh, PartitionSpec())
  for case in CASES:
    make, operands = programs.CASES[case]
    shapes = [
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in operands
    ]
    for form in ("xla", "tpu"):
      with jax.set_mesh(mesh):
        traced = jax.jit(make(form)).trace(*shapes)
        report = executables.build(traced, dict(mesh.shape))
      costs, seconds = report.costs, report.seconds(pod)
      sys.stdout.write(
        f"{case}, {form}: compiler {1e6 * seconds.compiler:.1f} us, traffic"
        f" {costs.bytes / 1e6:.2f} MB, {1e6 * seconds.memory:.1f} us\n"
      )
      sys.stdout.flush()


if __name__ == "__main__":
  main(*sys.argv[1:])
