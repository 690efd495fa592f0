"""Sharding of the training state by a table of rules, matched strictly.

A rule is (regex on the parameter's path, mesh axis per dimension). Paths read
"blocks/attention/kernel"; a dimension's entry is an axis, a tuple of axes or
None, and missing entries at the end are None. Every parameter must match
exactly one rule, so that nothing is replicated by accident.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxreward.errors import UserError
from jaxreward.types import Params

Axes = tuple[str | tuple[str, ...] | None, ...]
Rules = Sequence[tuple[str, Axes]]


def param_specs(params: Params, rules: Rules, mesh: Mesh) -> Params:
  """PartitionSpec of every parameter.

  Args:
    params: arrays or `jax.ShapeDtypeStruct`s.
    rules: ((path regex, axes per dimension), ...).
    mesh: whose axes the rules name.

  Returns:
    A tree of `PartitionSpec`, like `params`.

  Raises:
    ValueError: an axis that the mesh lacks, or more dimensions than an array has.
    UserError: a path that no rule or several rules match, or an axis size that
      does not divide a dimension.
  """
  matches = {
    path: [axes for pattern, axes in rules if re.search(pattern, path)]
    for path, _ in _leaves(params)
  }
  unmatched = [path for path, entries in matches.items() if not entries]
  ambiguous = [path for path, entries in matches.items() if len(entries) > 1]
  if unmatched or ambiguous:
    raise UserError(_table_error(unmatched, ambiguous, rules))

  def spec(key_path, leaf):
    path = _name(key_path)
    axes = matches[path][0]
    _check(path, leaf.shape, axes, mesh)
    return PartitionSpec(*axes)

  return jax.tree_util.tree_map_with_path(spec, params)


def state_shardings(
  state: Any, rules: Rules, mesh: Mesh, *, params: Params | None = None
) -> Any:
  """Sharding of every leaf of a training state.

  A leaf whose path ends in a parameter's path and which has its shape
  (optimizer moments, averages, reference) is placed like that parameter;
  everything else (steps, counters, statistics) is replicated.

  Args:
    state: abstract state from `jax.eval_shape`, any pytree.
    rules: see `param_specs`.
    mesh: where the state lives.
    params: the parameters; `state.params` or `state["params"]` if None.

  Returns:
    A tree of `NamedSharding`, like `state`: what `out_shardings` takes.
  """
  if params is None:
    params = state["params"] if isinstance(state, dict) else state.params
  specs = param_specs(params, rules, mesh)
  is_spec = lambda x: isinstance(x, PartitionSpec)
  flat_specs = jax.tree.leaves(specs, is_leaf=is_spec)
  spec_of = {
    (path, leaf.shape): spec
    for (path, leaf), spec in zip(_leaves(params), flat_specs, strict=True)
  }

  def sharding(key_path, leaf):
    parts = _name(key_path).split("/")
    # The longest suffix first: "a/b/kernel" before "b/kernel".
    for start in range(len(parts)):
      param_spec = spec_of.get(("/".join(parts[start:]), leaf.shape))
      if param_spec is not None:
        return NamedSharding(mesh, param_spec)
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(sharding, state)


def device_bytes(tree: Any) -> int:
  """Bytes per device of a tree with shardings; see `describe`."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def describe(parts: dict[str, Any], *, limit: int = 20) -> str:
  """A short table: the largest leaves, their shardings, bytes per device.

  Args:
    parts: name -> tree of arrays, or of shapes with shardings.
    limit: rows before "and n more"; the totals count all.

  Returns:
    Lines of text; the last has the total of every part.
  """
  rows: list[tuple[int, str, str, str]] = []
  for path, leaf in _leaves(parts):
    shape = ",".join(map(str, leaf.shape))
    kind = f"{leaf.dtype}[{shape}]"
    spec = " ".join(_entry(axes) for axes in leaf.sharding.spec) or "replicated"
    rows.append((device_bytes(leaf), path, kind, spec))
  rows.sort(key=lambda row: (-row[0], row[1]))
  top = rows[:limit]
  widths = [max((len(str(r[i])) for r in top), default=0) for i in (1, 2, 3)]
  lines = [
    f"{path:<{widths[0]}}  {kind:<{widths[1]}}  {spec:<{widths[2]}}  "
    f"{_size(count):>10}"
    for count, path, kind, spec in top
  ]
  if len(rows) > limit:
    remainder = sum(row[0] for row in rows[limit:])
    lines.append(f"and {len(rows) - limit} more, {_size(remainder)}")
  totals = {name: device_bytes(tree) for name, tree in parts.items()}
  summary = ", ".join(f"{k} {_size(v)}" for k, v in totals.items() if v)
  lines.append(
    f"total per device: {_size(sum(totals.values()))} ({summary or 'nothing'})"
  )
  return "\n".join(lines)


def _entry(axes: str | tuple[str, ...] | None) -> str:
  """One dimension of a spec, as in "fsdp", "data+fsdp" or "-"."""
  return "+".join(axes) if isinstance(axes, tuple) else axes or "-"


def _name(key_path) -> str:
  return jax.tree_util.keystr(key_path, simple=True, separator="/")


def _leaves(tree):
  """[(path, leaf), ...] in tree order."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(_name(path), leaf) for path, leaf in leaves]


def _table_error(unmatched, ambiguous, rules) -> str:
  """Paths that no rule or several rules match."""
  parts = []
  if unmatched:
    parts.append(f"no sharding rule matches {', '.join(unmatched)}")
  for path in ambiguous:
    patterns = [pattern for pattern, _ in rules if re.search(pattern, path)]
    parts.append(f"{path} is matched by {len(patterns)} rules: {patterns}")
  return (
    f"sharding_rules: {'; '.join(parts)}. Each parameter must match exactly one"
    ' rule; (".*", ()) alone keeps all of them whole on every device'
  )


def _check(path, shape, axes, mesh) -> None:
  """Checks that the axes exist and divide the shape."""
  if len(axes) > len(shape):
    raise ValueError(
      f"the sharding rule of {path} names {len(axes)} dimensions, but its "
      f"shape is {shape}."
    )
  for size, entry in zip(shape, axes, strict=False):
    names = entry if isinstance(entry, tuple) else (entry,)
    names = [name for name in names if name is not None]
    unknown = [name for name in names if name not in mesh.shape]
    if unknown:
      raise ValueError(
        f"the sharding rule of {path} names the axis {unknown[0]}; the mesh "
        f"has {', '.join(mesh.axis_names)}."
      )
    parts = math.prod(mesh.shape[name] for name in names)
    if size % parts:
      raise UserError(
        f"parameter {path} {shape}: a dimension of {size} cannot be split "
        f"over mesh.{' x mesh.'.join(names)} = {parts}; choose a size that "
        f"divides {size}."
      )


def _size(count: float | int) -> str:
  for unit in ("B", "KiB", "MiB"):
    if count < 1024:
      return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
    count /= 1024
  return f"{count:.1f} GiB"
