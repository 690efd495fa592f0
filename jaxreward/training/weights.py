"""Parameters as one safetensors file, names joined by "/"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (teaches NumPy, hence safetensors, bfloat16)
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from jaxreward.errors import UserError, nearest, one_line, shown
from jaxreward.files import (
  local,
  require_finite,
  require_plain,
  write_atomic,
)
from jaxreward.types import Params

_SHOWN = 3


def _named(tree: Params) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  join = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return {join(path): leaf for path, leaf in leaves}


def _stored(name: str, leaf: Any, dtype: np.dtype | None) -> np.ndarray:
  """The leaf as stored: floats in `dtype`, others unchanged."""
  array = np.asarray(leaf)
  if dtype is None or not jax.numpy.issubdtype(array.dtype, np.floating):
    return np.asarray(array, order="C")
  with np.errstate(over="ignore"):
    small = np.asarray(array.astype(dtype), order="C")
  if np.isfinite(array).all() and not np.isfinite(small).all():
    raise UserError(f"{name} has values too large for {np.dtype(dtype).name}")
  return small


def save_params(
  path: os.PathLike[str] | str, tree: Params, *, dtype: Any = None
) -> None:
  """Writes a tree of arrays atomically.

  Args:
    path: the file; an existing one is replaced atomically.
    tree: nested dict of arrays.
    dtype: storage type of floating leaves, such as "bfloat16" or "float16".

  Raises:
    UserError: no space, no permission, or a value `dtype` cannot hold.
  """
  dtype = None if dtype is None else jax.numpy.dtype(dtype)
  arrays = {n: _stored(n, leaf, dtype) for n, leaf in _named(tree).items()}
  data = safetensors.numpy.save(arrays, {})
  write_atomic(path, data)


def load_params(
  path: os.PathLike[str] | str,
  like: Params,
  fresh: Params | None = None,
  longer: Params | None = None,
) -> Params:
  """Fills every leaf of `like` exactly once from a safetensors file.

  Args:
    path: a file of `save_params`.
    like: tree of arrays or `jax.ShapeDtypeStruct`; gives the structure, the
      shapes and the types, and the shardings where its leaves have one.
    fresh: initial values of leaves that the file may lack.
    longer: initial values of tables of which it may hold the first rows alone.

  Returns:
    The tree; leaves are NumPy arrays where `like` has no sharding.

  Raises:
    UserError: no such file, not safetensors, or missing, unexpected, wrongly
      shaped or non-finite tensors, by name.
  """
  fresh_leaves, read = _named({} if fresh is None else fresh), _read(path)
  untaught = sorted(fresh_leaves.keys() - read.keys())
  for name, table in _named({} if longer is None else longer).items():
    rows = read.get(name, table)
    if rows.shape[1:] == table.shape[1:] and 0 < len(rows) < len(table):
      untaught.append(f"{name} from row {len(rows)} on")
      read[name] = np.concatenate([rows, np.asarray(table)[len(rows) :]])
  if untaught:
    logging.warning(
      "%s lacks %s: untaught", shown(path, 120), shown(", ".join(untaught), 300)
    )
  leaves = fresh_leaves | read
  expected = _named(like)
  _require_equal_names(path, leaves, expected)
  wrong = [
    f"{name} is {_kind(leaves[name])}, expected {_kind(leaf)}"
    for name, leaf in expected.items()
    if tuple(leaves[name].shape) != tuple(leaf.shape)
    or _is_float(leaves[name]) != _is_float(leaf)
  ]
  if wrong:
    raise UserError(f"{path} does not fit this model: {_list(wrong)}")

  def fill(leaf_path, leaf):
    name = jax.tree_util.keystr(leaf_path, simple=True, separator="/")
    if name in read:
      require_finite(path, name, leaves[name])
    value = leaves[name].astype(leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    return value if sharding is None else jax.device_put(value, sharding)

  return jax.tree_util.tree_map_with_path(fill, like)


def _read(path: os.PathLike[str] | str) -> dict[str, np.ndarray]:
  try:
    with local(path) as copy, safetensors.safe_open(copy, "numpy") as file:
      names = list(file.keys())
      for name in names:
        require_plain(path, name, file.get_slice(name).get_dtype())
      return {name: file.get_tensor(name) for name in names}
  except FileNotFoundError:
    raise UserError(f"{path}: no such file") from None
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise UserError(f"cannot read {path}: {one_line(error)}") from error


def _require_equal_names(
  path: os.PathLike[str] | str,
  found: Mapping[str, Any],
  wanted: Mapping[str, Any],
) -> None:
  missing = [n for n in wanted if n not in found]
  unexpected = [n for n in found if n not in wanted]
  parts = []
  if missing:
    hint = nearest(missing[0], unexpected)
    parts.append(f"it lacks {_list(missing)}{hint}")
  if unexpected:
    parts.append(f"it holds besides {_list(unexpected)}")
  if parts:
    raise UserError(f"{path} does not fit this model: {'; '.join(parts)}")


def _list(names: list[str]) -> str:
  more = len(names) - _SHOWN
  return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_float(leaf: Any) -> bool:
  return bool(jax.numpy.issubdtype(leaf.dtype, np.floating))


def _kind(leaf: Any) -> str:
  return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
