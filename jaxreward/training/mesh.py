"""One mesh, three axes: data and fsdp share the batch, tensor the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxreward import compat
from jaxreward.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Mesh over ("data", "fsdp", "tensor") with Auto axes.

  Args:
    data: batch shards with full parameters; -1 for the remaining devices.
    fsdp: batch shards that also shard the parameters.
    tensor: shards of each layer.
    devices: all devices if None; all of them must be used.

  Returns:
    The mesh; enter it with `jax.set_mesh`.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
  shape = resolve(sizes, len(devices))
  axis_types = (AxisType.Auto,) * 3
  try:
    return jax.make_mesh(shape, AXES, axis_types=axis_types, devices=devices)
  except NotImplementedError:  # a physical axis has to be split
    grid = compat.device_grid(shape, devices)
    return Mesh(grid, AXES, axis_types=axis_types)


def replicated(mesh: Mesh) -> NamedSharding:
  """A full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def round_up_to_devices(n: int, mesh: Mesh) -> int:
  """Smallest batch of at least n (and 1) rows that splits evenly."""
  parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  return max(-(-n // parts), 1) * parts


def resolve(sizes: dict[str, int], count: int) -> tuple[int, int, int]:
  """Axis sizes with -1 filled in; the error lists sizes that fit."""
  text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
  free = [axis for axis, size in sizes.items() if size == -1]
  invalid = [axis for axis, size in sizes.items() if size < 1 and size != -1]
  if invalid or len(free) > 1:
    raise UserError(
      f"mesh {text}: sizes are positive, and at most one may be -1."
    )
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if free and count % fixed == 0:
    sizes = sizes | {free[0]: count // fixed}
  elif free or fixed != count:
    raise UserError(
      f"mesh {text} needs {'a multiple of ' if free else ''}{fixed} devices, "
      f"but there are {count}: choose sizes whose product is {count}."
    )
  data, fsdp, tensor = (sizes[axis] for axis in AXES)
  return data, fsdp, tensor
