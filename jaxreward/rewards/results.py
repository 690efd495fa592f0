"""Validates what a reward returned, as `Scores` or a clear error."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError, one_line, shown
from jaxreward.rewards.contract import Scores

_AXES = ("[P, G]", "[P, G, T + 1]", "[P, G, h, w]")


def named(name: str, result: Any) -> dict[str, Any]:
  """The result by name: a single score takes the config's key."""
  if not isinstance(result, Mapping):
    return {name: result}
  if len(result) == 1:
    return {name: next(iter(result.values()))}
  if not result:
    raise UserError(f'reward "{name}" returned no score')
  return {f"{name}/{shown(key, 40)}": value for key, value in result.items()}


def checked(
  name: str, result: Any, shape: tuple[int, ...]
) -> dict[str, Scores]:
  """Scores by name, their arrays float32.

  Arrays of other libraries, lists, integers and booleans are accepted; numbers
  too large for float32 become infinite, which counts as failed.

  Args:
    name: of the reward.
    result: what it returned: an array or `Scores`, or either by name.
    shape: [P, G].

  Raises:
    UserError: naming the reward, what it returned, and what is expected.
  """
  return {
    key: _judged(key, value, tuple(shape))
    for key, value in named(name, result).items()
  }


def _judged(name: str, result: Any, shape: tuple[int, ...]) -> Scores:
  what = f'reward "{name}" returned'
  if not isinstance(result, Scores):
    return Scores(_scores(what, result, shape))
  std, steps = result.std, result.per_step
  if std is not None:
    std = _scores(f"{what} as std", std, shape)
  if steps is not None:
    count = (np.shape(steps) or (0,))[-1]
    steps = _scores(f"{what} as per_step", steps, (*shape, count))
  places = result.places
  if places is not None:
    sides = (*np.shape(places), 0, 0, 0, 0)[2:4]
    places = _scores(f"{what} as places", places, (*shape, *sides))
  errors = result.errors
  if errors is not None:
    count = (np.shape(errors) or (0,))[-1]
    axes = "[P, G, N]"
    errors = _scores(f"{what} as errors", errors, (*shape, count), axes)
  return Scores(_scores(what, result.value, shape), std, steps, places, errors)


def _scores(what: str, value: Any, shape: tuple[int, ...], axes: str = ""):
  axes = axes or _AXES[len(shape) - 2]
  expected = f"expected numbers of shape {axes} = {list(shape)}"
  value = _array(what, value, expected)
  dtype = value.dtype
  if jnp.issubdtype(dtype, jnp.complexfloating):
    raise UserError(f"{what} complex values; {expected}")
  if not jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, bool):
    raise UserError(f"{what} values of type {dtype}; {expected}")
  if tuple(value.shape) != shape:
    raise UserError(f"{what} shape {list(value.shape)}; {expected}")
  with np.errstate(over="ignore", invalid="ignore"):
    return value.astype(np.float32)


def _array(what: str, value: Any, expected: str) -> Any:
  """An array of NumPy or JAX."""
  if isinstance(value, jax.Array | np.generic):
    return value
  if isinstance(value, np.ma.MaskedArray):
    with np.errstate(over="ignore", invalid="ignore"):
      return np.ma.filled(value.astype(np.float32), np.nan)
  if isinstance(value, np.ndarray):
    return value
  if isinstance(value, list | tuple | int | float):
    return _of_numbers(what, value, expected)
  if hasattr(value, "__array__"):
    return _of_another_library(what, value, expected)
  raise UserError(f"{what} a {type(value).__name__}{_why(value)}; {expected}")


def _of_numbers(what: str, value: Any, expected: str) -> Any:
  leaves = jax.tree.leaves(value, is_leaf=lambda x: x is None)
  if any(x is None for x in leaves):
    raise UserError(
      f"{what} None among its numbers; a score that failed is NaN; {expected}"
    )
  traced = any(isinstance(x, jax.Array) for x in leaves)
  try:
    return jnp.asarray(value) if traced else np.asarray(value)
  except (TypeError, ValueError):
    raise UserError(f"{what} rows of unequal length; {expected}") from None


def _of_another_library(what: str, value: Any, expected: str) -> np.ndarray:
  """A tensor of PyTorch, TensorFlow and the like as NumPy."""
  try:
    return np.asarray(value)
  except Exception as error:
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    fix = (
      "x.detach().cpu().float().numpy()"
      if hasattr(value, "detach")
      else "a NumPy array"
    )
    raise UserError(
      f"{what} a {kind} that is no NumPy array ({one_line(error)[:80]}): return"
      f" {fix}; {expected}"
    ) from error


def _why(value: Any) -> str:
  """A hint about the likely mistake behind a value that is not an array."""
  if value is None:
    return ": a return is missing"
  if inspect.iscoroutine(value):
    value.close()
    return ": finish it by asyncio.run(...)"
  if inspect.isgenerator(value):
    return ": return a list or an array"
  if callable(value):
    return ": a function, which nobody calls"
  return ""
