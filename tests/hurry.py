"""Programs of most tests run a few times: they are compiled in a hurry.

XLA's older emitters and LLVM without passes take a fifth of the time. Tests of
what the compiler makes of a program, as that a replay gives the same bits, bear
the mark `optimized`: these are compiled as users' are. Imports no JAX.
"""

from jaxreward import compat, startup

FLAGS = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
  "xla_cpu_parallel_codegen_split_count": 1,
}
# XLA of jaxlib 0.11 no longer has the older emitters.
FLAGS = {k: v for k, v in FLAGS.items() if compat.has_xla_flag(k)}


def xla_flags(devices: int = 1) -> str:
  """XLA_FLAGS of another process with some virtual devices."""
  words = [f"--{name}={value}".lower() for name, value in FLAGS.items()]
  words.append(f"--xla_force_host_platform_device_count={devices}")
  return startup.for_virtual_devices(" ".join(words))
