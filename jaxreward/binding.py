"""Resolves and checks the functions and files that a config names.

A method section is `dict(name=..., **arguments of that function)`: `bind`
checks the arguments against the function's own signature, so there is no
second list to keep. Every failure is a `UserError` of one line.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
import types
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxreward import paths, user_code
from jaxreward.errors import UserError, nearest, shown

_PACKAGE = pathlib.Path(__file__).resolve().parent
_REPOSITORY = _PACKAGE.parent
_BY_POSITION = (
  inspect.Parameter.POSITIONAL_ONLY,
  inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
# Fields that have moved.
_KL = (
  'moved: write config.regularizers.kl.fn="step_kl" (or "velocity_distance" for'
  " objectives on noised samples) and config.regularizers.kl.{}"
)
MOVED = {
  "objective.kl": _KL.format("weight"),
  "objective.kl_with_dt": _KL.format("form"),
}
_BY_NAME = (
  inspect.Parameter.POSITIONAL_OR_KEYWORD,
  inspect.Parameter.KEYWORD_ONLY,
)


def find_file(path: str | os.PathLike[str]) -> pathlib.Path:
  """The file at the path, or, if relative, the one shipped with the package."""
  path_given = pathlib.Path(paths.expand(path))
  for candidate in _places(path_given):
    if paths.is_file(candidate):
      return candidate
  if os.path.isdir(path_given):
    raise UserError(f"{shown(path, 100)}: it is a folder, not a file")
  raise UserError(
    f"{shown(path, 100)}: no such file{_nearest_file(path_given)}"
    f"{paths.hint(str(path_given))}"
  )


def _places(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Candidates: the working directory, then the files shipped with the package.

  A wheel holds the configs inside the package; what lies beside is foreign.
  """
  if not (_PACKAGE / "configs").is_dir():
    return path, _REPOSITORY / path
  return (path, _PACKAGE / path) if path.parts[:1] == ("configs",) else (path,)


def _nearest_file(path: pathlib.Path) -> str:
  for folder in _places(path):
    names = paths.beside(epath.Path(folder))
    if names:
      alike = [n for n in names if n.endswith(path.suffix or ".py")]
      return nearest(str(path), [str(path.parent / n) for n in alike])
  return ""


def split_arg(spec: str) -> tuple[str, str | None]:
  """Splits "configs/x.py:arg" into ("configs/x.py", "arg")."""
  path, colon, arg = spec.partition(".py:")
  return (path + ".py", arg) if colon else (spec, None)


def load_module(
  path: str | os.PathLike[str], *, fresh: bool = True
) -> types.ModuleType:
  """Runs a Python file and returns it as a module.

  Args:
    path: the file, absolute, or relative to the working directory or to the
      repository.
    fresh: run it again even if this process has run it before.
  """
  file = find_file(path).resolve()
  name = f"{file.stem}_{zlib.crc32(str(file).encode()):08x}"
  if not fresh and name in sys.modules:
    return sys.modules[name]
  spec = importlib.util.spec_from_file_location(name, file)
  if spec is None or spec.loader is None:
    raise UserError(f"{path}: not a Python file")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses and pickle look it up there
  writes = sys.dont_write_bytecode
  sys.dont_write_bytecode = True  # nothing is put beside a user's files
  try:
    spec.loader.exec_module(module)
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    sys.modules.pop(name, None)
    raise blame(error, path, file) from error
  finally:
    sys.dont_write_bytecode = writes
  return module


def blame(
  error: BaseException, path: str | os.PathLike[str], file: pathlib.Path
) -> UserError:
  """The error as one line that names the file and line."""
  if isinstance(error, UserError):
    return error
  frames = traceback.extract_tb(error.__traceback__)
  lines = [f.lineno for f in frames if f.filename == str(file)]
  if isinstance(error, SyntaxError) and error.filename == str(file):
    lines.append(error.lineno)
  where = f"{path}:{lines[-1]}" if lines else str(path)
  return UserError(f"{where}: {user_code.explain(error, file.parent)}")


def lookup(name: Any, registry: Mapping[str, Any], *, field: str) -> Any:
  """Entry of a registry, or an error with the nearest known name."""
  if not isinstance(name, str) or name not in registry:
    raise UserError(
      f'config.{field}="{shown(name)}" is not known'
      f"{nearest(str(name), registry)}; "
      f"known: {', '.join(sorted(registry)) or 'none'}"
    )
  return registry[name]


def resolve_callable(
  spec: Any, registry: Mapping[str, Callable[..., Any]], *, field: str
) -> Callable[..., Any]:
  """A function by registry name, "package.module.fn" or "file.py:fn".

  Args:
    spec: which function.
    registry: names known to the package; they win.
    field: config field that holds `spec`, for the error.
  """
  if not isinstance(spec, str) or spec in registry:
    return lookup(spec, registry, field=field)
  path, name = split_arg(spec)
  if name is None and path.endswith(".py"):
    raise UserError(
      f"config.{field}={spec}: name the function too, as in {spec}:function"
    )
  if name is None and "." not in spec:
    return lookup(spec, registry, field=field)
  try:
    if name is not None:
      module = load_module(path, fresh=False)
    else:
      path, _, name = spec.rpartition(".")
      module = importlib.import_module(path)
  except UserError as error:
    value = "" if str(error).startswith(path) else f"={spec}"
    raise UserError(f"config.{field}{value}: {error}") from error
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    where = user_code.place(error)
    why = user_code.explain(error)
    raise UserError(
      f"config.{field}={spec}: {f'{where}: {why}' if where else why}"
    ) from error
  function = getattr(module, name, None)
  if not callable(function):
    functions = [k for k, v in vars(module).items() if callable(v)]
    raise UserError(
      f'config.{field}={spec}: {path} has no function "{name}"'
      f"{nearest(name, functions)}"
    )
  _require_plain(function, f"config.{field}={spec}")
  return function


def _require_plain(function: Callable[..., Any], what: str) -> None:
  """Refuses callables whose call does not return a result."""
  unwrapped = inspect.unwrap(function)
  if inspect.isclass(unwrapped):
    raise UserError(
      f"{what}: it is a class; name a function, or an object of the class that"
      " can be called"
    )
  if inspect.iscoroutinefunction(unwrapped):
    raise UserError(
      f"{what}: it is an async function; name a plain one, which may call"
      " asyncio.run(...)"
    )
  if inspect.isgeneratorfunction(unwrapped) or inspect.isasyncgenfunction(
    unwrapped
  ):
    raise UserError(f"{what}: it yields; name a function that returns")


def bind(
  section: ConfigDict,
  registry: Mapping[str, Callable[..., Any]],
  *,
  field: str,
  supplied: Sequence[str] | Callable[..., Sequence[str]] = (),
  positional: int = 0,
  reserved: Sequence[str] = (),
  key: str = "name",
) -> functools.partial:
  """The function a section names, with the section's arguments filled in.

  Args:
    section: `key` and keyword arguments of that function.
    registry: functions by name; dotted paths and "file.py:fn" name others.
    field: where the section lies, such as "objective", for errors.
    supplied: names of arguments that the caller passes by keyword, or a
      function of `fn` that returns them.
    positional: how many leading arguments the caller passes by position.
    reserved: fields of the section that are not arguments, such as "weight".
    key: the field that names the function.

  Returns:
    A partial with the function's name, docstring and attributes.
  """
  if key not in section:
    raise UserError(
      f'config.{field} lacks "{key}"; known: {", ".join(sorted(registry))}'
    )
  fn = resolve_callable(section[key], registry, field=f"{field}.{key}")
  arguments = {
    k: _plain(section[k]) for k in section if k not in {key, *reserved}
  }
  arguments = _checked(
    fn, arguments, field, str(section[key]),
    set(supplied(fn) if callable(supplied) else supplied),
    positional, reserved,
  )  # fmt: skip
  partial = functools.partial(fn, **arguments)
  functools.update_wrapper(partial, fn)
  return partial


def _checked(
  fn: Callable[..., Any],
  arguments: dict[str, Any],
  field: str,
  name: str,
  supplied: set[str],
  positional: int,
  reserved: Sequence[str],
) -> dict[str, Any]:
  """The arguments, converted, if they and `supplied` fit the signature."""
  P = inspect.Parameter
  try:
    parameters = list(inspect.signature(fn).parameters.values())
  except (TypeError, ValueError) as error:
    raise UserError(
      f'config.{field}: "{name}" does not say what arguments it takes; write a'
      " function of your own around it"
    ) from error
  parameter_kinds = {p.kind for p in parameters}
  ordered = [p.name for p in parameters if p.kind in _BY_POSITION]
  if len(ordered) < positional and P.VAR_POSITIONAL not in parameter_kinds:
    raise UserError(
      f'config.{field}: "{name}" takes {len(ordered)} '
      f"positional arguments; {positional} are given to it"
    )
  supplied = supplied | set(ordered[:positional])
  by_name = {p.name: p for p in parameters if p.kind in _BY_NAME}
  free = [n for n in by_name if n not in supplied]
  for key in arguments:
    if key in supplied:
      raise UserError(
        f"config.{field}.{key} is given by the program, not by the config"
      )
    if key not in by_name and f"{field}.{key}" in MOVED:
      raise UserError(f"config.{field}.{key} has {MOVED[f'{field}.{key}']}")
    if key not in by_name and P.VAR_KEYWORD not in parameter_kinds:
      options = [*free, *reserved]
      raise UserError(
        f'config.{field}.{key} is no argument of "{name}"'
        f"{nearest(key, options)}; it takes: {', '.join(options)}"
      )
  for n in free:
    if by_name[n].default is P.empty and n not in arguments:
      raise UserError(f'config.{field} lacks "{n}", which "{name}" needs')
  return {
    k: _typed(f"config.{field}.{k}", v, by_name.get(k))
    for k, v in arguments.items()
  }


_OPTIONAL_NUMBERS = ("float | None", "int | None")


def _typed(field: str, value: Any, parameter: Any) -> Any:
  """The value if it has the type of the parameter's default."""
  default = getattr(parameter, "default", None)
  annotation = str(getattr(parameter, "annotation", ""))
  if default is None and annotation in _OPTIONAL_NUMBERS and value is not None:
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise UserError(
        f"{field}={shown(repr(value))}: expected a number or none"
      )
    return value
  if isinstance(default, float) and type(value) is int:
    return float(value)
  if type(default) not in (bool, int, float, str) or type(value) is type(
    default
  ):
    return value
  raise UserError(
    f"{field}={shown(repr(value))}: expected {type(default).__name__}, as "
    f"in the default {default!r}"
  )


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value
