"""The share of the chips' matrix peak that a run's steps reach."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxreward import compat
from jaxreward.compilation import flops

# Dense bf16 operations per second of one device, by its `device_kind`; the
# first match counts. TPUs: docs.cloud.google.com/tpu/docs; GPUs: NVIDIA's data
# sheets of the SXM modules, PCIe cards and the L4, without sparsity.
PEAKS = (
  (r"TPU v4$", 275e12),
  (r"TPU v5( lite|e)$", 197e12),
  (r"TPU v5p?$", 459e12),
  (r"TPU v6( lite|e)$", 918e12),
  (r"H100.*PCIe", 756e12),
  (r"H100|H200", 989e12),
  (r"A100", 312e12),
  (r"\bL4\b", 121e12),
)


def peak(kind: str) -> float | None:
  """Operations per second of a kind of device; None if it is not known."""
  matches = (p for pattern, p in PEAKS if re.search(pattern, kind))
  return next(matches, None)


class Utilization:
  """Counts the matrix products of a step's programs, once per program.

  The count is that of the programs as written: recomputed activations are in
  it, results that nobody reads are not.

  Args:
    devices: that run the programs. Of a kind without a known peak, nothing is
      counted and there is no figure.
  """

  def __init__(self, devices: list[Any]):
    peaks = [peak(device.device_kind) for device in devices]
    self._peak = None if None in peaks else sum(p for p in peaks if p)
    self._counts: dict[Any, float] = {}
    self._flops, self._is_warm = 0.0, True

  def watch(self, program: Any) -> Any:
    """The jitted program, whose calls count from now on; None stays None."""
    if not self._peak or program is None:
      return program

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
      leaves = jax.tree.leaves((args, kwargs))
      key = (program, *((jax.numpy.shape(x)) for x in leaves))
      if key not in self._counts:
        # The call reuses the trace.
        self._counts[key] = due(program.trace(*args, **kwargs).jaxpr)
        self._is_warm = False
      self._flops += self._counts[key]
      return program(*args, **kwargs)

    return run

  def row(self, seconds: Mapping[str, float]) -> dict[str, float]:
    """{"mfu": share} of a step by the seconds of its parts, and starts anew.

    Empty without a peak, and for a step that compiled. Evaluations are left
    out of the time as their products are of the count.
    """
    total = sum(s for part, s in seconds.items() if part != "evaluate")
    count, is_warm = self._flops, self._is_warm
    self._flops, self._is_warm = 0.0, True
    if not (self._peak and is_warm and count and total):
      return {}
    return {"mfu": count / total / self._peak}


def due(jaxpr: Any) -> float:
  """Operations of matrix products that the results depend on."""
  return flops.count(compat.needed(jaxpr))
