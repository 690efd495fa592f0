"""TPU slices by name, and the peaks of their chips."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os

import jax

from jaxreward import compat
from jaxreward.errors import UserError, nearest, one_line

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of one chip.

  Attributes:
    memory: bytes of HBM that the compiler gives to a program.
    flops: bf16 operations per second.
    bandwidth: bytes per second between HBM and the chip.
    network: bytes per second that one chip sends over all of its links.
    clock: cycles per second, the unit of the compiler's estimates.
  """

  memory: float
  flops: float
  bandwidth: float
  network: float
  clock: float


# flops, bandwidth and network (half of the bidirectional figure):
# docs.cloud.google.com/tpu/docs/{v5e,v5p-training,v6e}, read 2026-11. memory:
# "available HBM" in the out-of-memory message of libtpu 0.0.42.1, which is what
# is left of 16, 95 and 32 GB. clock: flops / (2 x multipliers of all matrix
# units), 4 of 128 x 128 (v5e), 8 of 128 x 128 (v5p), 4 of 256 x 256 (v6e).
CHIPS = {
  "v5e": Chip(15.75 * GIB, 197e12, 819e9, 200e9, 1.5e9),
  "v5p": Chip(95.74 * GIB, 459e12, 2765e9, 600e9, 1.75e9),
  "v6e": Chip(31.25 * GIB, 918e12, 1638e9, 400e9, 1.75e9),
}
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = (
  "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8",
  "8x8x16", "8x16x16", "16x16x16", "16x16x24",
)  # fmt: skip
SHAPES = {"v5e": _FLAT, "v5p": _DEEP, "v6e": _FLAT}
# Products are sold by TensorCores in this generation, two to a chip.
_CORES = {"v5p": 2}
# What libtpu asks for where there is no TPU; no chip is there to be fought
# over, so that several compilers may run at once.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of chips.

  Attributes:
    name: as the compiler takes it, such as "v5e:16x16".
    size: number of devices.
    chip: peaks of each; None for CPUs, whose peaks are unknown.
  """

  name: str
  size: int
  chip: Chip | None


def find(name: str) -> Topology:
  """The slice called "v5e:16x16", "v5e-256", "v5p-64" or "cpu:8".

  Numbers after a dash follow the product name: chips, or TensorCores for v5p,
  two per chip.

  Raises:
    UserError: an unknown slice, with the nearest known one.
  """
  kind, _, count = name.partition(":")
  if kind == "cpu" and count.isdigit() and int(count):
    return Topology(name, int(count), None)
  topologies, slices = {}, {}
  for chip, shapes in SHAPES.items():
    for shape in shapes:
      size = math.prod(map(int, shape.split("x")))
      slices[f"{chip}:{shape}"] = Topology(f"{chip}:{shape}", size, CHIPS[chip])
      product = f"{chip}-{size * _CORES.get(chip, 1)}"
      topologies[product] = topologies[f"{chip}:{shape}"] = slices[
        f"{chip}:{shape}"
      ]
  if name not in topologies:
    hint = nearest(name, [*topologies, "cpu:8"])
    raise UserError(
      f'config.topology="{name}" is not known{hint}; known: cpu:N,'
      f" {', '.join(slices)}"
    )
  return topologies[name]


def require(topology: Topology) -> None:
  """Configures JAX for an absent slice; call it before creating any array.

  Raises:
    UserError: the TPU compiler is not installed.
  """
  if topology.chip is None:
    _more_cpus(topology.size)
    return
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      f'config.topology="{topology.name}" needs the TPU compiler:'
      " pip install jaxreward[tpu]; config.topology=cpu:8 does without"
    )
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  jax.config.update("jax_platforms", "cpu")
  # Programs for absent chips can be cached, but not read back.
  jax.config.update("jax_enable_compilation_cache", False)


def _more_cpus(count: int) -> None:
  """Requests that many virtual CPUs, unless JAX has been initialized."""
  jax.config.update("jax_platforms", "cpu")
  try:
    if jax.config.jax_num_cpu_devices < count:  # pyrefly: ignore
      jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:
    pass  # `devices` checks the count


def devices(topology: Topology) -> list[jax.Device]:
  """Devices to compile for; TPU devices cannot run programs.

  Raises:
    UserError: too few CPUs, or an error of the TPU compiler.
  """
  if topology.chip is None:
    cpus = jax.devices("cpu")
    if len(cpus) < topology.size:
      raise UserError(
        f'config.topology="{topology.name}": JAX started with {len(cpus)}'
        " CPUs; start a new process"
      )
    return cpus[: topology.size]
  try:
    described = compat.topologies.get_topology_desc(
      topology.name, platform="tpu"
    )
  except Exception as error:
    raise UserError(
      f'config.topology="{topology.name}": {one_line(error)}'
    ) from error
  return list(described.devices)
