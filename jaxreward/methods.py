"""Methods: plain functions whose argument names say which arrays they read."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxreward.types import Array

F = TypeVar("F", bound=Callable[..., Any])


def asks(fn: Callable[..., Any]) -> tuple[str, ...]:
  """Names of the arrays that a method reads, in the order of its arguments.

  They are its positional arguments without a default; keyword-only arguments
  are options.
  """
  by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
  return tuple(
    parameter.name
    for parameter in inspect.signature(fn).parameters.values()
    if parameter.kind not in by_name
    and parameter.default is inspect.Parameter.empty
  )


def renamed(
  fn: Callable[..., Any], names: Mapping[str, str]
) -> Callable[..., Any]:
  """A method that reads other arrays in the place of its own.

  Args:
    fn: the method.
    names: of its arguments -> of the arrays that are read.
  """
  signature = inspect.signature(fn)
  parameters = [
    parameter.replace(name=names.get(name, name))
    for name, parameter in signature.parameters.items()
  ]
  own = {new: name for name, new in names.items()}

  def run(**arrays: Any) -> Any:
    return fn(**{own.get(name, name): x for name, x in arrays.items()})

  functools.update_wrapper(run, fn)
  vars(run)["__signature__"] = signature.replace(parameters=parameters)
  return run


def named(fn: Callable[..., Any], **offers: Any) -> dict[str, Any]:
  """The keyword arguments among `offers` that a function accepts."""
  parameters = inspect.signature(fn).parameters
  return {name: x for name, x in offers.items() if name in parameters}


def whole_samples(fn: F) -> F:
  """Marks a method that compares samples by all of their steps at once."""
  vars(fn).update(needs_whole_samples=True)
  return fn


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Columns that a method needs of all rows of an optimizer step at once.

  Attributes:
    read: asks for arrays by name, as an objective does -> {name: [M]} of a
      micro-batch; no gradient flows through it.
    finish: {name: [N, M]} of all N micro-batches -> {name: [N, M]}, the columns
      that the method may then ask for; by keyword it may take options of the
      method.
    gives: names of those columns.
  """

  read: Callable[..., Mapping[str, Array]]
  finish: Callable[..., Mapping[str, Array]]
  gives: tuple[str, ...]


def prepares(
  read: Callable[..., Mapping[str, Array]],
  finish: Callable[..., Mapping[str, Array]],
  gives: tuple[str, ...],
) -> Callable[[F], F]:
  """Decorates a method that asks for columns of a whole optimizer step."""

  def mark(fn: F) -> F:
    fn.prepare = Prepare(read, finish, gives)  # pyrefly: ignore
    return fn

  return mark


def prepare_of(fn: Callable[..., Any]) -> Prepare | None:
  """The `Prepare` of a method, with the method's options bound, or None."""
  prepare = getattr(fn, "prepare", None)
  if prepare is None:
    return None
  options = {
    p.name: p.default
    for p in inspect.signature(fn).parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
  }
  while isinstance(fn, functools.partial):
    options, fn = {**options, **fn.keywords}, fn.func
  finish = functools.partial(prepare.finish, **named(prepare.finish, **options))
  return dataclasses.replace(prepare, finish=finish)
