"""What a process inherits from whoever started it, put right or refused.

Streams that are closed, flags that would abort the process without a word,
and settings of JAX that would change results in silence.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import re
import sys
import warnings
from typing import Any

from absl import logging

from jaxreward.errors import UserError, nearest, one_line, shown

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
  except RuntimeError as error:
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
    with contextlib.suppress(RuntimeError):
      found.append(f"{name} ({len(jax.devices(name))})")
  jax.config.update("jax_platforms", given)
  return f"this machine has {', '.join(found) or 'none of cpu, gpu and tpu'}"


def require_flags() -> None:
  """Refuses flags of XLA_FLAGS that would abort the process.

  Known are those whose names stand in the library.

  Raises:
    UserError: with the nearest flag there is.
  """
  flags = os.environ.get("XLA_FLAGS", "").strip()
  if not flags.startswith("-"):  # none, or a file of them
    return
  names = [n for n in _FLAG.findall(flags) if n.startswith(_STARTS.decode())]
  for name in names:
    near = _unknown(name)
    if near is not None:
      raise UserError(f"XLA_FLAGS: there is no flag --{shown(name)}{near}")


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
