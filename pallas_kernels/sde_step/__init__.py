"""One step of a stochastic sampler with its log-probability."""

from pallas_kernels.sde_step.api import sde_step, transition

__all__ = ["sde_step", "transition"]
