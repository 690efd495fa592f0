"""The environment a process starts in, corrected or refused.

Closed streams, flags that would abort the process without a message, and JAX
settings that would silently change results.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import warnings
from typing import Any

from absl import logging

from jaxreward import compat
from jaxreward.errors import (
  UserError,
  nearest,
  one_line,
  shown,
  text_of,
)

# Settings that change numbers, or that fail on valid values: a failed score is
# NaN. They are pinned to these values whatever the environment says.
PINNED: dict[str, Any] = {
  "jax_default_prng_impl": "threefry2x32",
  "jax_threefry_partitionable": True,
  "jax_enable_x64": False,
  "jax_default_dtype_bits": "64",
  "jax_numpy_rank_promotion": "allow",
  "jax_numpy_dtype_promotion": "standard",
  "jax_random_seed_offset": 0,
  "jax_disable_jit": False,
  "jax_debug_nans": False,
  "jax_debug_infs": False,
}
_FLAG = re.compile(r"--([A-Za-z0-9_]+)")
_DEVICES = re.compile(r"--xla_force_host_platform_device_count(?:=(\S*))?")
_MOST = 4096  # devices that one process pretends to have
# Virtual devices share one pool of threads, and one that waits for another keeps its
# thread. XLA's default schedule starts exchanges that do not need one another at
# once: those of some devices then take all threads, and the others never come. A
# process in which a device has waited a minute is ended; busy machines need longer.
VIRTUAL = {
  "xla_cpu_enable_concurrency_optimized_scheduler": "false",
  "xla_cpu_collective_call_terminate_timeout_seconds": "300",
}


def open_streams() -> None:
  """Opens standard streams that are closed.

  Otherwise the next file opened would take the descriptor and receive what
  libraries print. Characters that cannot be encoded are escaped.
  """
  for number in (0, 1, 2):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    elif hasattr(stream, "reconfigure"):
      with contextlib.suppress(OSError, ValueError):
        stream.reconfigure(errors="backslashreplace")


def allow_warnings() -> None:
  """Keeps library warnings from ending a run, as PYTHONWARNINGS=error would."""
  if any(action == "error" for action, *_ in warnings.filters):
    warnings.simplefilter("default")


def say(text: str, stream: Any = None) -> None:
  """Writes to a stream, even if its reader has gone."""
  stream = sys.stderr if stream is None else stream
  with contextlib.suppress(OSError, ValueError, AttributeError):
    stream.write(text)
    stream.flush()


def require_folder() -> None:
  """Refuses a working directory that is no longer there.

  Raises:
    UserError: with the fix.
  """
  try:
    os.getcwd()
  except OSError as error:
    raise UserError(
      f"the folder that this was started in is gone ({error.strerror}); cd to"
      " one that is there, and start again"
    ) from error


def require_settings() -> None:
  """Refuses variables of the environment with which JAX cannot be imported.

  Raises:
    UserError: the variable and its value.
  """
  settings = {k: v for k, v in os.environ.items() if k.startswith("JAX_")}
  if not settings:  # JAX is imported where it is needed
    return
  try:
    import jax  # noqa: F401
  except (ValueError, TypeError, AttributeError) as error:
    text = text_of(error).lower()
    by_name = [k for k in settings if k.lower() in text]
    by_value = [k for k, v in settings.items() if repr(v).lower() in text]
    for name in (by_name or by_value)[:1]:
      raise UserError(
        f"{name}={shown(settings[name])}: JAX does not take it"
        f" ({one_line(error)[:120]}); unset it"
      ) from error
    raise


def pin_jax() -> None:
  """Applies `PINNED` and warns of settings that the environment changed."""
  import jax

  for name, value in PINNED.items():
    if not hasattr(jax.config, name) or getattr(jax.config, name) == value:
      continue
    if os.environ.get(name.upper()):
      logging.warning(
        "%s=%s is left out: runs here are made with %s", name.upper(),
        shown(os.environ[name.upper()]), value,
      )  # fmt: skip
    jax.config.update(name, value)


def require_platform() -> None:
  """Refuses a platform of JAX_PLATFORMS that is not there.

  Raises:
    UserError: naming it, and what there is.
  """
  import jax

  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    platform = os.environ.get("JAX_PLATFORMS", "")
    if not platform:
      raise UserError(f"JAX finds no device: {one_line(error)}") from error
    raise UserError(
      f"JAX_PLATFORMS={shown(platform)}: {_there()}; unset it, or install what"
      f" that platform needs ({one_line(error)[:100]})"
    ) from error


def _there() -> str:
  """Which of the usual platforms this machine has, as text."""
  import jax

  setting, platforms = getattr(jax.config, "jax_platforms", None), []
  for name in ("cpu", "gpu", "tpu"):
    jax.config.update("jax_platforms", name)
    with contextlib.suppress(RuntimeError, AssertionError):
      platforms.append(f"{name} ({len(jax.devices(name))})")
  jax.config.update("jax_platforms", setting)
  return (
    f"this machine has {', '.join(platforms) or 'none of cpu, gpu and tpu'}"
  )


def require_flags() -> None:
  """Refuses flags of XLA_FLAGS that would abort the process.

  Known flags are those named in the library; values are tried in a child
  process.

  Raises:
    UserError: with the nearest flag there is, or the value that is refused.
  """
  flags = os.environ.get("XLA_FLAGS", "").strip()
  if not flags:
    return
  if not flags.startswith("-"):
    _require_flag_file(flags)
    return
  names = [n for n in _FLAG.findall(flags) if n.startswith("xla_")]
  for name in names:
    near = _unknown(name)
    if near is not None:
      raise UserError(f"XLA_FLAGS: there is no flag --{shown(name)}{near}")
  for count in _DEVICES.findall(flags):
    if not count.isdecimal() or not 0 < int(count[:9]) <= _MOST:
      raise UserError(
        "XLA_FLAGS: --xla_force_host_platform_device_count="
        f"{shown(count)}: expected a whole number from 1 to {_MOST}"
      )
  if _DEVICES.sub("", flags).strip():
    _try_flags(flags)


def let_devices_meet() -> None:
  """Prevents virtual CPU devices from waiting for one another forever.

  A value in XLA_FLAGS takes precedence. Call it before JAX makes its devices.
  """
  flags = os.environ.get("XLA_FLAGS", "").strip()
  counts = [*_DEVICES.findall(flags), os.environ.get("JAX_NUM_CPU_DEVICES", "")]
  if any(counts) and (not flags or flags.startswith("-")):
    os.environ["XLA_FLAGS"] = for_virtual_devices(flags)


def for_virtual_devices(flags: str) -> str:
  """XLA_FLAGS under which virtual devices meet, where XLA can be told."""
  more = [
    f"--{name}={value}"
    for name, value in VIRTUAL.items()
    if name not in flags and compat.has_xla_flag(name)
  ]
  return " ".join([flags, *more]).strip()


def _require_flag_file(flags: str) -> None:
  """XLA reads a value that does not begin with "-" as a file of flags."""
  if not os.path.isfile(flags):
    raise UserError(
      f"XLA_FLAGS={shown(flags)}: there is no such file of flags; a flag reads"
      " like --xla_cpu_enable_fast_math=false"
    )
  _try_flags(flags)


@functools.cache
def _try_flags(flags: str) -> None:
  """Refuses values that would abort the process.

  Raises:
    UserError: with the first line of what XLA says.
  """
  # XLA aborts a process whose flags it cannot parse; this child may abort.
  command = [sys.executable, "-c", compat.BACKEND_TRIAL]
  env = os.environ | {"XLA_FLAGS": flags}
  try:
    result = subprocess.run(command, env=env, capture_output=True, timeout=60)
  except (OSError, subprocess.TimeoutExpired):
    return  # it says nothing of the flags
  if result.returncode:
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    why = lines[0].rpartition("] ")[2] if lines else "it says nothing"
    raise UserError(
      f"XLA_FLAGS={shown(flags)}: XLA refuses it ({shown(why, 120)})"
    )


def _unknown(name: str) -> str | None:
  """For an unknown flag a hint, possibly ''; None for a known one."""
  if compat.has_xla_flag(name):
    return None
  return nearest(name, compat.xla_words())
