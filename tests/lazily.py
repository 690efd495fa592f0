"""Checks of types and shapes that are made when a function is first called.

Making them takes longer than importing the package, and a test calls few functions.
"""

import ast
import functools

import beartype
import jaxtyping
from jaxtyping import _import_hook

# an int is welcome where a float is expected
_CONF = beartype.BeartypeConf(is_pep484_tower=True)
_NAME = "_lazily_checked"


def install(*packages: str) -> None:
  """Functions of what is imported from here on of the packages are checked.

  Dataclasses are left alone: unflattening a pytree fills them with anything.
  """
  _import_hook._JaxtypingLoader = _Loader
  jaxtyping.install_import_hook(packages, "tests.lazily.checked")


def checked(function):
  """`jaxtyping.jaxtyped`, but nothing is done before the first call."""

  @functools.cache
  def made():
    return jaxtyping.jaxtyped(function, typechecker=_checker)

  @functools.wraps(function)
  def call(*args, **kwargs):
    if jaxtyping.config.jaxtyping_disable:
      return function(*args, **kwargs)
    return made()(*args, **kwargs)

  return call


def _checker(function):
  """`beartype.beartype`, likewise: one of the two of a function often rests."""

  @functools.cache
  def made():
    return beartype.beartype(function, conf=_CONF)

  @functools.wraps(function)
  def call(*args, **kwargs):
    return made()(*args, **kwargs)

  return call


class _Loader(_import_hook._JaxtypingLoader):
  """Decorates functions that name a type; walks statements alone.

  Compiled files are kept under the name that `install` gives: another one is to
  be given where this changes.
  """

  def source_to_code(self, data, path, *, _optimize=-1):
    tree = ast.parse(data, path)
    _decorate(tree)
    first = next(
      i
      for i, node in enumerate([*tree.body, None])
      if not isinstance(node, ast.Expr)
      and getattr(node, "module", "") != "__future__"
    )
    names = [ast.alias("checked", _NAME)]
    line = dict(lineno=1, col_offset=0)
    names[0].lineno, names[0].col_offset = 1, 0
    tree.body.insert(first, ast.ImportFrom("tests.lazily", names, 0, **line))
    return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


def _decorate(node) -> None:
  """Puts the check under the other decorators, here and in what stands below."""
  for field in ("body", "orelse", "finalbody", "handlers", "cases"):
    for child in getattr(node, field, ()):
      _decorate(child)
  if isinstance(node, ast.FunctionDef) and (
    node.returns
    or any(getattr(part, "annotation", None) for part in ast.walk(node.args))
  ):
    name = ast.Name(_NAME, ast.Load())
    node.decorator_list.append(ast.copy_location(name, node))
