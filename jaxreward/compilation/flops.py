"""FLOPs of a program as written, independent of the machine."""

from __future__ import annotations

import functools
import math
from typing import Any

from jaxreward import compat

# Parameters in which primitives hold their inner programs.
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr", "cond_jaxpr")
# Kernels of this project that state their cost without padding.
_STATED = ("stream_attention",)


def count(jaxpr: Any, *, kernels_only: bool = False) -> float:
  """Multiplications and additions of all matrix products and convolutions.

  Two operations per product. The body of a scan counts once per iteration, that
  of a `shard_map` once per device, and the most expensive branch of a `cond`
  counts. A `while_loop` of unknown length counts once; elementwise work does not
  count. Convolution taps on padding count. The body of a Pallas kernel counts
  once per grid cell, or what is due by the `cost_estimate` of those in `_STATED`.

  Args:
    jaxpr: of `jax.make_jaxpr` or of `jitted.trace(...)`, before partitioning:
      the count is for the whole program.
    kernels_only: count only operations within kernels.
  """
  return sum(
    _equation(eqn, kernels_only) for eqn in compat.open_jaxpr(jaxpr).eqns
  )


def _equation(eqn: Any, kernels_only: bool) -> float:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    return 0.0 if kernels_only else _dot(eqn)
  if name == "conv_general_dilated":
    return 0.0 if kernels_only else _convolution(eqn)
  if name == "pallas_call":
    if (stated := _stated(params)) is not None:
      return stated
    return math.prod(params["grid_mapping"].grid) * count(params["jaxpr"])
  inside = functools.partial(count, kernels_only=kernels_only)
  if name == "cond":
    return max(map(inside, params["branches"]))
  inner = sum(inside(params[key]) for key in _BODIES if key in params)
  if name == "scan":
    return inner * params["length"]
  if name == "shard_map":
    mesh = params["mesh"].shape
    return inner * math.prod(mesh[axis] for axis in params["newly_manual_axes"])
  return inner


def _stated(params: Any) -> float | None:
  """Operations that a kernel of this project says are due."""
  cost = params.get("cost_estimate")
  is_ours = (params.get("name") or "").startswith(_STATED)
  return float(cost.flops) if cost is not None and is_ours else None


def _dot(eqn: Any) -> float:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  lhs = eqn.invars[0].aval.shape
  out = eqn.outvars[0].aval.shape
  return 2.0 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)


def _convolution(eqn: Any) -> float:
  kernel = eqn.invars[1].aval.shape
  out = eqn.outvars[0].aval.shape
  spec = eqn.params["dimension_numbers"].rhs_spec  # (out, in, *space)
  taps = math.prod(kernel[axis] for axis in spec[1:])
  return 2.0 * math.prod(out) * taps
