"""Selects the form of a kernel, and maps it over the rows of a mesh."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from jaxreward import compat, processes
from jaxreward.errors import UserError, nearest
from jaxreward.types import ArrayLike

IMPLEMENTATIONS = (
  "auto",
  "xla",
  "tpu",
  "triton",
  "interpret",
  "interpret_triton",
)
BATCH_AXES = ("data", "fsdp")
_BY_PLATFORM = {"tpu": "tpu", "gpu": "triton", "cuda": "triton"}


def choose(implementation: str) -> str:
  """The form of a kernel to run, one of `IMPLEMENTATIONS` but "auto".

  Args:
    implementation: "auto" takes "tpu" on TPUs, "triton" on GPUs and
      "interpret" elsewhere; the platform is that of the mesh that is set, so
      that a program compiled for absent devices gets their kernel, else that
      of JAX's default backend. "xla" is the plain reference, which the
      compiler cuts over a mesh as it does any other code. "interpret" runs the
      blocks of "tpu", and "interpret_triton" those of "triton", on any backend.

  Raises:
    UserError: an unknown form.
  """
  check(implementation)
  if implementation != "auto":
    return implementation
  return _BY_PLATFORM.get(processes.platform(), "interpret")


def check(implementation: str, prefix: str = "") -> None:
  """Raises `UserError` unless the form is known; touches no device."""
  if implementation not in IMPLEMENTATIONS:
    raise UserError(
      f'{prefix}implementation="{implementation}" is none of'
      f" {', '.join(IMPLEMENTATIONS)}{nearest(implementation, IMPLEMENTATIONS)}"
    )


def backend(form: str, tpu: Any, gpu: Any) -> Callable[..., Any]:
  """`run` of the module with a form's blocks."""
  module = gpu if form.endswith("triton") else tpu
  return functools.partial(module.run, interpret=form.startswith("interpret"))


def over_rows(
  body: Callable[..., Any],
  batch_axes: tuple[str, ...],
  *operands: ArrayLike,
  shared: tuple[ArrayLike, ...] = (),
) -> Any:
  """Runs `body` on each device's share of the rows, through `jax.shard_map`.

  The compiler cannot partition a kernel. Rows must be independent; if the
  devices do not divide their number, they are padded with zeros.

  Args:
    body: takes `shared` and the operands, returns a tree of arrays; all have the same first
      axis.
    batch_axes: mesh axes that shard the rows; axes that the mesh lacks are
      skipped, and work is replicated over its other axes.
    *operands: arrays with the same first axis.
    shared: arrays that every device gets whole, before the operands.

  Returns:
    `body(*shared, *operands)`. Without a mesh, or inside a fully manual region, `body`
    is called directly.
  """
  mesh = jax.sharding.get_abstract_mesh()
  free = [
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind != AxisType.Manual
  ]
  if not free:
    return body(*shared, *operands)
  axes = tuple(name for name in batch_axes if name in free)
  rows = operands[0].shape[0]
  extra = -rows % math.prod(mesh.shape[name] for name in axes)
  spec = PartitionSpec(axes) if axes else PartitionSpec()
  whole = PartitionSpec()
  specs = (*[whole] * len(shared), *[spec] * len(operands))
  mapped = compat.over_shards(body, set(free), specs, spec)
  result = mapped(*shared, *(_more_rows(x, extra) for x in operands))
  return jax.tree.map(lambda x: x[:rows], result) if extra else result


def _more_rows(x: ArrayLike, extra: int) -> ArrayLike:
  if not extra:
    return x
  return jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))
