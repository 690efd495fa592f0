"""Public weight layouts: one table per architecture, read in both directions.

A table is a sequence of `Rule`s, each of which maps one of our parameters to
public tensors. Loading and saving use the same rules, so a round trip is exact
to the bit.

  rules = (
    *linear("patch_in", "x_embedder"),
    *linear("blocks/query", "blocks.{}.attn.to_q", layers=range(24)),
    Rule("", "*.position_ids"),
  )
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import json
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from absl import logging

from jaxreward.errors import UserError, nearest, shown
from jaxreward.files import write_atomic
from jaxreward.models import hub
from jaxreward.types import Params

_SHOWN, _UNREAD = 3, 8
_ADAPTER = re.compile(r"[._](lora[._](A|B|up|down)|lokr_|hada_)")
SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class Form:
  """Maps a public tensor to one of ours and back, as views."""

  to_ours: Callable[[np.ndarray], np.ndarray]
  to_public: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda x: x, lambda x: x)
# [out, in] <-> [in, out]
LINEAR = Form(lambda x: x.T, lambda x: x.T)
# [out, in, *window] <-> [*window, in, out]
CONV = Form(
  lambda x: np.moveaxis(x, (0, 1), (-1, -2)),
  lambda x: np.moveaxis(x, (-1, -2), (0, 1)),
)


@dataclasses.dataclass(frozen=True)
class Rule:
  """One of our parameters and the corresponding public tensors.

  Attributes:
    ours: path, such as "blocks/query/kernel"; empty for optional public
      tensors that are not loaded; `public` is then a glob.
    public: name, with "{}" for the layer if `layers` is given. Several names
      are equal parts of ours, one after the other on the first public axis
      (query, key and value of a fused product).
    form: of each public tensor, or of their concatenation.
    layers: layers stacked on our first axis, for a scan.
  """

  ours: str
  public: str | tuple[str, ...]
  form: Form = SAME
  layers: Sequence[int] | None = None

  def names(self) -> list[tuple[str, ...]]:
    """Public names of each layer; one entry where there is no layer axis."""
    public = (self.public,) if isinstance(self.public, str) else self.public
    if self.layers is None:
      return [public]
    return [tuple(n.format(i) for n in public) for i in self.layers]

  def to_public(self, ours: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every public tensor in one of our parameters."""
    rows = [ours] if self.layers is None else ours
    for names, row in zip(self.names(), rows, strict=True):
      array = self.form.to_public(row)
      parts = [array] if len(names) == 1 else np.split(array, len(names))
      yield from zip(names, parts, strict=True)

  def to_ours(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Our parameter from the public tensors that `read` gives by name."""
    join = lambda parts: parts[0] if len(parts) == 1 else np.concatenate(parts)
    rows = [
      self.form.to_ours(join([read(n) for n in names]))
      for names in self.names()
    ]
    return rows[0] if self.layers is None else np.stack(rows)


Rules = Sequence[Rule]


def below(rules: Rules, ours: str, public: str) -> tuple[Rule, ...]:
  """Rules with the prefix `ours` before paths and `public` before names."""
  names = lambda x: (x,) if isinstance(x, str) else x
  return tuple(
    dataclasses.replace(
      rule,
      ours=f"{ours}{rule.ours}",
      public=tuple(f"{public}{name}" for name in names(rule.public)),
    )
    for rule in rules
  )


Names = str | tuple[str, ...]


def _pair(ours, public, kernel, form, bias, layers) -> tuple[Rule, ...]:
  public = (public,) if isinstance(public, str) else public
  ends = [(kernel, "weight", form), ("bias", "bias", SAME)]
  return tuple(
    Rule(f"{ours}/{k}", tuple(f"{n}.{p}" for n in public), f, layers)
    for k, p, f in ends[: 1 + bias]
  )


def linear(
  ours: str,
  public: Names,
  layers: Sequence[int] | None = None,
  *,
  bias: bool = True,
) -> tuple[Rule, ...]:
  """Kernel and bias of an `nn.Dense`."""
  return _pair(ours, public, "kernel", LINEAR, bias, layers)


def conv(
  ours: str,
  public: Names,
  layers: Sequence[int] | None = None,
  *,
  bias: bool = True,
) -> tuple[Rule, ...]:
  """Kernel and bias of an `nn.Conv` of any rank."""
  return _pair(ours, public, "kernel", CONV, bias, layers)


def norm(
  ours: str,
  public: Names,
  layers: Sequence[int] | None = None,
  *,
  bias: bool = True,
) -> tuple[Rule, ...]:
  """Scale and bias of a normalisation."""
  return _pair(ours, public, "scale", SAME, bias, layers)


def load_params(
  spec: os.PathLike[str] | str, rules: Rules, like: Params
) -> Params:
  """Fills every leaf of `like` from a public checkpoint.

  Args:
    spec: see `hub.resolve`.
    rules: the architecture's table.
    like: tree of `jax.ShapeDtypeStruct` or arrays; gives the shapes and types,
      and the shardings where its leaves have one.

  Returns:
    The tree; leaves are NumPy arrays where `like` has no sharding.

  Raises:
    UserError: unreadable weights, or missing, unexpected or wrongly shaped
      tensors, by name; nothing is read unless all of them fit. Or a tensor
      with a value that is not finite; see `hub.Stored.read`.
    ValueError: the table and the parameters do not name the same leaves.
  """
  tensors = hub.open_weights(spec)
  by_path = _by_path(rules, like)
  expected = _outlines(like, by_path)
  ignored = [name for rule in rules if not rule.ours for name in rule.names()]
  _require_fit(spec, tensors, expected, [n for names in ignored for n in names])
  _say_unread(spec, [name for name in tensors if name not in expected])

  def fill(key_path, leaf):
    rule = by_path[_name(key_path)]
    value = rule.to_ours(lambda name: tensors[name].read())
    value = value.astype(leaf.dtype, copy=False)
    sharding = getattr(leaf, "sharding", None)
    return value if sharding is None else jax.device_put(value, sharding)

  return jax.tree_util.tree_map_with_path(fill, like)


def _say_unread(spec: os.PathLike[str] | str, names: list[str]) -> None:
  """Logs the tensors that are not read, layers grouped."""
  if names:
    counts = collections.Counter(re.sub(r"\d+", "{}", name) for name in names)
    parts = [f"{n} ({k})" if k > 1 else n for n, k in counts.items()]
    text = shown(_list(parts, _UNREAD), 150)
    logging.info("%s: not read, not needed: %s", shown(spec, 100), text)


def to_public(params: Params, rules: Rules) -> dict[str, np.ndarray]:
  """Our parameters by their public names, in the public layout."""
  by_path = _by_path(rules, params)
  return {
    name: array
    for path, leaf in _leaves(params)
    for name, array in by_path[path].to_public(np.asarray(leaf))
  }


def public_shapes(params: Params, rules: Rules) -> dict[str, tuple[int, ...]]:
  """Shape of every public tensor; the parameters may be abstract."""
  outlines = _outlines(params, _by_path(rules, params))
  return {name: shape for name, (shape, _) in outlines.items()}


def replaced(
  params: Params,
  rules: Rules,
  names: Collection[str],
  value_of: Callable[[str, np.ndarray], np.ndarray],
) -> Params:
  """Parameters with some public tensors replaced, the others unchanged.

  Args:
    params: of the architecture.
    rules: its table.
    names: of the public tensors.
    value_of: (name, its float32 values) -> new values; only the first axis may
      change size.
  """
  result = jax.tree.map(lambda x: x, params)
  for rule in rules:
    if not any(name in names for row in rule.names() for name in row):
      continue
    *parents, last = rule.ours.split("/")
    node = result
    for parent in parents:
      node = node[parent]
    old = np.asarray(node[last])
    public = dict(rule.to_public(old.astype(np.float32)))

    def read(name: str, public=public) -> np.ndarray:
      value = public[name]
      return value_of(name, value) if name in names else value

    node[last] = rule.to_ours(read).astype(old.dtype)
  return result


def save_params(
  folder: os.PathLike[str] | str,
  params: Params,
  rules: Rules,
  *,
  config: Mapping[str, Any] | None = None,
  stem: str = "diffusion_pytorch_model",
  dtype: Any = None,
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes a folder that the public libraries load.

  Args:
    folder: created if absent.
    params: our parameters.
    rules: the architecture's table.
    config: content of `config.json`, if any.
    stem: name of the weights; transformers calls them "model".
    dtype: storage type of floating leaves, such as "bfloat16".
    shard_bytes: largest file; larger weights are sharded, with an index.

  Raises:
    UserError: no space, no permission, or a value the type cannot hold.
  """
  folder = pathlib.Path(folder)
  arrays = dict(sorted(to_public(params, rules).items()))
  sizes = {name: _stored_bytes(x, dtype) for name, x in arrays.items()}
  shards: list[list[str]] = [[]]
  size = 0
  for name, count in sizes.items():
    if shards[-1] and size + count > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(name)
    size += count
  count = len(shards)
  places: dict[str, str] = {}
  for i, names in enumerate(shards):
    part = f"-{i + 1:05d}-of-{count:05d}" if count > 1 else ""
    file = f"{stem}{part}.safetensors"
    data = {n: stored(n, arrays[n], dtype) for n in names}
    write_atomic(folder / file, safetensors.numpy.save(data, {"format": "pt"}))
    places |= dict.fromkeys(names, file)
  if count > 1:
    total = sum(sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_atomic(
      folder / f"{stem}.safetensors.index.json", json.dumps(index, indent=2)
    )
  if config is not None:
    write_atomic(folder / "config.json", json.dumps(dict(config), indent=2))


def stored(name: str, x: np.ndarray, dtype: Any) -> np.ndarray:
  """An array as stored in a file: floats in `dtype`, unchanged if it is None.

  Raises:
    UserError: finite values that are too large for it.
  """
  if dtype is None or not _is_float(x):
    return np.asarray(x, order="C")
  kind = jax.numpy.dtype(dtype)
  with np.errstate(over="ignore"):
    small = np.asarray(x.astype(kind), order="C")
  if np.isfinite(x).all() and not np.isfinite(small).all():
    raise UserError(f"{name} has values too large for {kind.name}")
  return small


def _stored_bytes(x: np.ndarray, dtype: Any) -> int:
  is_cast = dtype is not None and _is_float(x)
  return x.size * (jax.numpy.dtype(dtype) if is_cast else x.dtype).itemsize


def _by_path(rules: Rules, tree: Params) -> dict[str, Rule]:
  """The rule of every leaf; each leaf has exactly one."""
  by_path = {rule.ours: rule for rule in rules if rule.ours}
  paths = [path for path, _ in _leaves(tree)]
  odd = sorted(set(paths) ^ set(by_path))
  if odd or len(by_path) != sum(bool(rule.ours) for rule in rules):
    raise ValueError(
      f"the table of public names and the parameters differ: {odd or 'twice'}"
    )
  return by_path


def _require_fit(
  spec: os.PathLike[str] | str,
  tensors: Mapping[str, hub.Stored],
  expected: Mapping[str, tuple[tuple[int, ...], bool]],
  ignored: list[str],
) -> None:
  adapters = [n for n in tensors if _ADAPTER.search(n)]
  if adapters:
    raise UserError(
      f"{spec} holds adapters ({shown(adapters[0])}), not whole weights; a"
      " policy takes them as config.init.adapter"
    )
  missing = [n for n in expected if n not in tensors]
  unexpected = [
    n
    for n in tensors
    if n not in expected and not any(fnmatch.fnmatch(n, g) for g in ignored)
  ]
  misfits = [
    f"{n} is {tensors[n].dtype}{list(tensors[n].shape)}, expected"
    f" {'float' if is_float else 'int'}{list(shape)}"
    for n, (shape, is_float) in expected.items()
    if n in tensors
    and (tensors[n].shape != shape or tensors[n].is_float != is_float)
  ]
  parts = []
  most = (
    _SHOWN if len([x for x in (missing, unexpected, misfits) if x]) < 2 else 1
  )
  if missing:
    hint = nearest(missing[0], unexpected)
    parts.append(f"it lacks {_list(missing, most)}{hint}")
  if unexpected:
    parts.append(f"it holds besides {_list(unexpected, most)}")
  if misfits:
    parts.append(_list(misfits, most))
  if parts:
    raise UserError(f"{spec} does not fit this model: {'; '.join(parts)}")


def _outlines(
  tree: Params, by_path: Mapping[str, Rule]
) -> dict[str, tuple[tuple[int, ...], bool]]:
  """(shape, whether it is a float) of every public tensor."""
  nothing = np.zeros((), np.int8)  # broadcast, it takes no memory
  return {
    name: (part.shape, _is_float(leaf))
    for path, leaf in _leaves(tree)
    for name, part in by_path[path].to_public(
      np.broadcast_to(nothing, leaf.shape)
    )
  }


def _is_float(leaf: Any) -> bool:
  return bool(jax.numpy.issubdtype(leaf.dtype, np.floating))


def _list(names: list[str], most: int) -> str:
  excess = len(names) - most
  return ", ".join(names[:most]) + (f" and {excess} more" if excess > 0 else "")


def _name(key_path) -> str:
  return jax.tree_util.keystr(key_path, simple=True, separator="/")


def _leaves(tree: Params) -> list[tuple[str, Any]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(_name(path), leaf) for path, leaf in leaves]
