"""What a process inherits from whoever started it, put right or refused.

Streams that are closed, flags that would abort the process without a word,
and settings of JAX that would change results in silence.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import pathlib
import re
import subprocess
import sys
import warnings
from typing import Any

from absl import logging

from jaxreward.errors import (
  UserError,
  nearest,
  one_line,
  shown,
  text_of,
)

# Settings that change numbers, or stop at what is sound here: a score that
# failed is NaN. They are held at these values whatever the environment says.
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
# XLA ends the process whose flags it cannot read: this one may be ended.
_TRIAL = """
from jaxlib import xla_client
try:
  xla_client.make_cpu_client()
except Exception:
  pass
"""
_STARTS = b"xla_"


def open_streams() -> None:
  """Has the standard streams lead somewhere.

  A file that is opened while one is closed would take its place, and hold what
  libraries write there. What cannot be shown is escaped.
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
  """Has no warning of any library end a run, as PYTHONWARNINGS=error does."""
  if any(action == "error" for action, *_ in warnings.filters):
    warnings.simplefilter("default")


def say(text: str, stream: Any = None) -> None:
  """Writes to a stream, whoever may have left its other end."""
  stream = sys.stderr if stream is None else stream
  with contextlib.suppress(OSError, ValueError, AttributeError):
    stream.write(text)
    stream.flush()


def require_folder() -> None:
  """Refuses a working directory that is no longer there.

  Raises:
    UserError: with what mends it.
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
  given = {k: v for k, v in os.environ.items() if k.startswith("JAX_")}
  if not given:  # JAX is imported where it is needed
    return
  try:
    import jax  # noqa: F401
  except (ValueError, TypeError, AttributeError) as error:
    text = text_of(error).lower()
    named = [k for k in given if k.lower() in text]
    valued = [k for k, v in given.items() if repr(v).lower() in text]
    for name in (named or valued)[:1]:
      raise UserError(
        f"{name}={shown(given[name])}: JAX does not take it"
        f" ({one_line(error)[:120]}); unset it"
      ) from error
    raise


def pin_jax() -> None:
  """Holds the settings of `PINNED`, and says which the environment changed."""
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
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if not wanted:
      raise UserError(f"JAX finds no device: {one_line(error)}") from error
    raise UserError(
      f"JAX_PLATFORMS={shown(wanted)}: {_there()}; unset it, or install what"
      f" that platform needs ({one_line(error)[:100]})"
    ) from error


def _there() -> str:
  """What of the usual platforms this machine has, in words."""
  import jax

  given, found = getattr(jax.config, "jax_platforms", None), []
  for name in ("cpu", "gpu", "tpu"):
    jax.config.update("jax_platforms", name)
    with contextlib.suppress(RuntimeError, AssertionError):
      found.append(f"{name} ({len(jax.devices(name))})")
  jax.config.update("jax_platforms", given)
  return f"this machine has {', '.join(found) or 'none of cpu, gpu and tpu'}"


def require_flags() -> None:
  """Refuses flags of XLA_FLAGS that would abort the process.

  Known are those whose names stand in the library; values are tried in a
  process of their own.

  Raises:
    UserError: with the nearest flag there is, or the value that is refused.
  """
  flags = os.environ.get("XLA_FLAGS", "").strip()
  if not flags:
    return
  if not flags.startswith("-"):
    _require_flag_file(flags)
    return
  names = [n for n in _FLAG.findall(flags) if n.startswith(_STARTS.decode())]
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


def _require_flag_file(flags: str) -> None:
  """XLA takes what does not begin with "-" for a file of flags."""
  if not os.path.isfile(flags):
    raise UserError(
      f"XLA_FLAGS={shown(flags)}: there is no such file of flags; a flag reads"
      " like --xla_cpu_enable_fast_math=false"
    )
  _try_flags(flags)


@functools.cache
def _try_flags(flags: str) -> None:
  """Refuses values that end a process.

  Raises:
    UserError: with the first line of what XLA says.
  """
  command = [sys.executable, "-c", _TRIAL]
  env = os.environ | {"XLA_FLAGS": flags}
  try:
    done = subprocess.run(command, env=env, capture_output=True, timeout=60)
  except (OSError, subprocess.TimeoutExpired):
    return  # it says nothing of the flags
  if done.returncode:
    said = done.stderr.decode(errors="replace").strip().splitlines()
    why = said[0].rpartition("] ")[2] if said else "it says nothing"
    raise UserError(
      f"XLA_FLAGS={shown(flags)}: XLA refuses it ({shown(why, 120)})"
    )


def _unknown(name: str) -> str | None:
  """The nearest flag, or '', of one that is not there; None of one that is."""
  import jaxlib

  library = pathlib.Path(jaxlib.__file__).parent / "libjax_common.so"
  if not library.exists():
    return None
  with (
    library.open("rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
  ):
    if text.find(name.encode() + b"\0") >= 0:
      return None
    found = re.findall(_STARTS + rb"[a-z0-9_]{3,80}(?=\0)", text)
  return nearest(name, {f.decode() for f in found})
