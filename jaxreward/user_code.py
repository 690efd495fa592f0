"""Errors of user code: where it failed, why, and how to fix it.

A config names functions and files of the user. Their exceptions become one line
with the file and line of that code, through any number of decorators and
libraries.

JAX is not imported here: command lines are checked without it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import pathlib
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from jaxreward.errors import (
  Lost,
  Stopped,
  UserError,
  one_line,
  shown,
  text_of,
)

_PACKAGES = ("jaxreward", "pallas_kernels")
_HERE = pathlib.Path(__file__).resolve().parent
_LIBRARIES = (
  sysconfig.get_paths()["stdlib"],
  *(f"{_HERE.parent / name}{os.sep}" for name in _PACKAGES),
  "<",  # of no file
)
_INSTALLED = (
  f"{os.sep}site-packages{os.sep}",
  f"{os.sep}dist-packages{os.sep}",
)
_HOST = "mark the function with jaxreward.rewards.declare(is_host=True)"
# JAX exceptions by class name, and what they mean.
_FIXES = {
  "TracerArrayConversionError": (
    f"NumPy, or another library, inside jit: use jax.numpy, or {_HOST}"
  ),
  "TracerBoolConversionError": (
    f"if, while, and, or, not on values inside jit: use jnp.where, or {_HOST}"
  ),
  "NonConcreteBooleanIndexError": (
    f"a boolean index inside jit: use jnp.where(mask, x, 0), or {_HOST}"
  ),
  "TracerIntegerConversionError": (
    f"a value inside jit as an index or a length: {_HOST}"
  ),
  "ConcretizationTypeError": (
    f"float(), int(), .item() or .tolist() inside jit: keep arrays, or {_HOST}"
  ),
  "UnexpectedTracerError": (
    "it uses an array of an earlier call, kept in a global, a default or a"
    " cache: compute it anew in every call"
  ),
}
_MESSAGES = {
  "Tracer": f"another library inside jit: use jax.numpy, or {_HOST}",
  "read-only": "it writes into what it is given: copy first, x = x.copy()",
  "immutable": "arrays of JAX do not change: x = x.at[index].set(value)",
}
_PIP = {
  "PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn",
  "skimage": "scikit-image", "yaml": "pyyaml", "open_clip": "open_clip_torch",
}  # fmt: skip


def code_of(fn: Any) -> CodeType | None:
  """The code of a function beneath partials and decorators, or None."""
  for _ in range(64):  # a chain may lead back to itself
    if isinstance(fn, functools.partial):
      fn = fn.func
    elif getattr(fn, "__wrapped__", None) is not None:
      fn = fn.__wrapped__
    else:
      break
  if not hasattr(fn, "__code__"):
    fn = inspect.getattr_static(type(fn), "__call__", None)
  return getattr(fn, "__code__", None)


def is_own(fn: Callable[..., Any]) -> bool:
  """Whether a function comes from outside this package."""
  code = code_of(fn)
  return code is None or not code.co_filename.startswith(_LIBRARIES[1:-1])


def place(error: BaseException, fn: Callable[..., Any] | None = None) -> str:
  """ "my.py:12", where the person's code was when it failed.

  The deepest line outside libraries; else the deepest in the function's own
  file; else where the function begins. Empty where nothing is known.
  """
  frames = [
    (frame.f_code.co_filename, line)
    for frame, line in traceback.walk_tb(error.__traceback__)
  ]
  code = None if fn is None else code_of(fn)
  outside = [f for f in frames if not _is_library(f[0])]
  same = [f for f in frames if code is not None and f[0] == code.co_filename]
  if outside or same:
    file, line = (outside or same)[-1]
  elif code is not None:
    file, line = code.co_filename, code.co_firstlineno
  else:
    return ""
  return f"{_short(file)}:{line}"


def _is_library(file: str) -> bool:
  return file.startswith(_LIBRARIES) or any(i in file for i in _INSTALLED)


def _short(file: str) -> str:
  """A path from the current folder, where that is shorter; its end at least."""
  try:
    file = min(file, os.path.relpath(file), key=len)
  except (OSError, ValueError):  # no current folder
    pass
  return file if len(file) <= 90 else f"...{file[-87:]}"


def explain(
  error: BaseException, folder: os.PathLike[str] | None = None
) -> str:
  """What an error of user code means, with its fix where one is known.

  Args:
    error: what was raised.
    folder: of the file that was run, where modules beside it are looked for.
  """
  for kind in type(error).__mro__:
    if kind.__name__ in _FIXES:
      return f"{_FIXES[kind.__name__]} ({kind.__name__})"
  if isinstance(error, SystemExit):
    return f"it calls exit({shown(error.code, 20)}); raise an error instead"
  if isinstance(error, ModuleNotFoundError) and error.name:
    return f"{one_line(error)}; {_missing(error.name, folder)}"
  text = text_of(error)
  for word, fix in _MESSAGES.items():
    if word in text and isinstance(
      error, TypeError | ValueError | AttributeError
    ):
      return f"{one_line(error)[:120]}; {fix}"
  if isinstance(error, SyntaxError):
    return f"{type(error).__name__}: {shown(error.msg, 160)}"
  return one_line(error)


def _missing(name: str, folder: os.PathLike[str] | None) -> str:
  """How to get a missing module."""
  package = name.partition(".")[0]
  if folder is not None:
    beside = pathlib.Path(folder)
    if (beside / f"{package}.py").exists() or (beside / package).is_dir():
      return f"it stands beside the file: set PYTHONPATH={_short(str(beside))}"
  return f"pip install {_PIP.get(package, package)}"


def is_ours(error: BaseException) -> bool:
  """Whether the exception is meant to end the run, or is already one line."""
  return isinstance(error, KeyboardInterrupt | UserError | Stopped | Lost)


@contextlib.contextmanager
def blamed(
  what: str, fn: Callable[..., Any] | None = None, *, host: bool = True
) -> Iterator[None]:
  """Turns any exception raised within into one line.

  Args:
    what: where the config names the function, with which the line begins.
    fn: the function, or None where only the traceback tells it.
    host: whether it may run outside jit.

  Raises:
    UserError: whatever is raised within but `is_ours`; a function of this
      package raises as it does.
  """
  try:
    yield
  except BaseException as error:
    if is_ours(error) or not (fn is None or is_own(fn)):
      raise
    raise UserError(f"{what}: {told(error, fn, host=host)}") from error


def call(what: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
  """What a function outside jit returns; its errors are `blamed`."""
  with blamed(what, fn, host=False):
    return fn(*args, **kwargs)


def told(
  error: BaseException, fn: Callable[..., Any] | None, *, host: bool = True
) -> str:
  """`place` and `explain` of what a function raised, as one text."""
  where = place(error, fn)
  if not (where if fn is None else is_own(fn)):
    return one_line(error)
  why = explain(error) if host else _inside(explain(error))
  return f"{where}: {why}" if where else why


def _inside(fix: str) -> str:
  """A fix without the option that only rewards have, running on the host."""
  return fix.replace(f", or {_HOST}", "").replace(f": {_HOST}", "")
