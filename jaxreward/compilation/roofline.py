"""Lower bounds on the seconds of a program, and its bottleneck."""

from __future__ import annotations

import dataclasses

from jaxreward.compilation.hlo import Costs
from jaxreward.compilation.topology import Chip


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Lower bounds, each ignoring the other two, and an estimate.

  Attributes:
    compute: matrix products at the chip's bf16 peak, including kernels.
    memory: bytes at the bandwidth of the HBM.
    network: bytes sent at the bandwidth of all links.
    compiler: the compiler's estimate without collectives, plus kernels, which
      it does not estimate: the larger of their products at peak and of their
      bytes at bandwidth.
  """

  compute: float
  memory: float
  network: float
  compiler: float

  @property
  def roofline(self) -> float:
    """The largest of the three bounds."""
    return max(self.compute, self.memory, self.network)

  @property
  def wall(self) -> str:
    """Which bound that is."""
    return max(("compute", "memory", "network"), key=lambda k: getattr(self, k))

  @property
  def step(self) -> float:
    """The compiler's estimate, then the collectives, with no overlap."""
    return max(self.compiler, self.compute) + self.network


def seconds(costs: Costs, chip: Chip) -> Seconds:
  """Of one device's costs, on its chip."""
  products = costs.kernel_flops / chip.flops
  kernels = max(products, costs.kernel_bytes / chip.bandwidth)
  return Seconds(
    compute=costs.flops / chip.flops + products,
    memory=costs.bytes / chip.bandwidth,
    network=costs.sent / chip.network,
    compiler=costs.cycles / chip.clock + kernels,
  )
