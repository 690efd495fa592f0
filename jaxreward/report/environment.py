"""The environment of a run: versions, devices, memory; no hosts or users."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from collections import Counter
from typing import Any

import jax

PACKAGES = (
  "jaxreward",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
  "libtpu",
)
GIB = 2**30


def describe() -> dict[str, Any]:
  """The environment of this process, as JSON types.

  Returns:
    {python, versions, system, machine, platform, devices: {kind: count},
    processes, cpu_count (usable by this process), memory_gib (the smaller of
    physical memory and the container's limit), peak_rss_gib, xla_flags}.
  """
  return {
    "python": platform.python_version(),
    "versions": versions(),
    "system": operating_system(),
    "machine": platform.machine(),
    "platform": jax.default_backend(),
    "devices": dict(Counter(d.device_kind for d in jax.devices())),
    "processes": jax.process_count(),
    "cpu_count": usable_cpus(),
    "memory_gib": _gib(memory_bytes()),
    "peak_rss_gib": _gib(peak_rss_bytes()),
    "xla_flags": xla_flags(),
  }


def versions() -> dict[str, str]:
  """Installed versions of the packages that affect results."""
  installed = {}
  for name in PACKAGES:
    try:
      installed[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return installed


def operating_system() -> str:
  """The distribution if known, else the kernel's name."""
  try:
    return platform.freedesktop_os_release()["PRETTY_NAME"]
  except (OSError, KeyError):
    return platform.system()


def usable_cpus() -> int:
  """Cores this process may run on."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def memory_bytes() -> int | None:
  """The smaller of physical memory and the container's limit."""
  try:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (ValueError, OSError):
    return None
  try:
    with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
      limit = file.read().strip()
  except OSError:
    return physical
  return min(physical, int(limit)) if limit.isdigit() else physical


def peak_rss_bytes() -> int:
  """Peak resident memory of this process."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def xla_flags() -> list[str]:
  """XLA_FLAGS without those that contain a path."""
  flags = os.environ.get("XLA_FLAGS", "").split()
  return [flag for flag in flags if "/" not in flag]


def _gib(size: int | None) -> float | None:
  return None if size is None else round(size / GIB, 2)
