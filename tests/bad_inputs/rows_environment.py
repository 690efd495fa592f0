"""What a process inherits: flags, platforms, limits."""

import jax

from jaxreward import startup
from tests.bad_inputs.table import Row


def _no_platform(here, monkeypatch):
  def devices(*names):
    if names != ("cpu",):
      raise RuntimeError("Unable to initialize backend 'cuda'")
    return [None]

  monkeypatch.setattr(jax, "devices", devices)
  update = lambda name, value: None
  monkeypatch.setattr(jax.config, "update", update)


def _no_files(here, monkeypatch):
  def take(*_, **__):
    raise OSError(24, "Too many open files")

  monkeypatch.setattr("jaxreward.workdirs.take", take)


def flags(name, value, *says):
  return Row(name, ("XLA_FLAGS", *says), env={"XLA_FLAGS": value})


ROWS = [
  flags("a flag there is not", "--xla_cpu_fast_maths=1", "xla_cpu_"),
  flags(
    "one of several", "--xla_cpu_enable_fast_math=false --xla_nothing",
    "--xla_nothing",
  ),
  flags("devices that are no number",
        "--xla_force_host_platform_device_count=abc", "=abc", "whole number"),
  flags("no devices", "--xla_force_host_platform_device_count=0", "from 1 to"),
  flags("a file of flags there is not", "flags.txt", "no such file of flags"),
  flags("a value of a flag", "--xla_cpu_enable_fast_math=maybe",
        "=maybe", "Couldn't interpret value maybe"),
  flags("a flag without a value", "--xla_force_host_count", "force_host"),
  *(
    Row(
      f"a platform there is not: {name}",
      (f"JAX_PLATFORMS={name}", "this machine has cpu (1)"),
      env={"JAX_PLATFORMS": name}, prepare=_no_platform,
      call=lambda here: startup.require_platform(),
    )
    for name in ("cuda", "tpu", "rocm", "gpuu")
  ),
  Row("no more files", ("too many open files", "ulimit"), prepare=_no_files),
  Row(
    "a process of several, half told", ("all three are needed",),
    env={"JAX_NUM_PROCESSES": "2"},
  ),
  Row(
    "an id above the count", ("the id below the count",),
    env={"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2",
         "JAX_COORDINATOR_ADDRESS": "localhost:1"},
  ),
]  # fmt: skip
