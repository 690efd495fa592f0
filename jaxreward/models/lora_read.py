"""Reads public adapters in their usual layouts.

Supports PEFT (a folder with `adapter_config.json`), diffusers' pipelines,
kohya's programs, ai-toolkit, x-flux and others that name layers as diffusers or
the network's authors do (`lora_names`). Ranks and scales may differ by layer.
Anything but pairs of matrices for layers of this network is refused with its
kind.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxreward.errors import UserError, nearest, shown
from jaxreward.models import (
  convert,
  hub,
  lora,
  lora_files,
  lora_names,
  lora_scales,
)
from jaxreward.types import Params

_END = re.compile(
  r"\.(?P<end>lora_A|lora_B|lora[._]down|lora[._]up|down|up)(\.(?!weight$)\w+)?"
  r"\.weight$"
)
_ENDS = {
  "lora_A": "a", "lora_down": "a", "down": "a",
  "lora_B": "b", "lora_up": "b", "up": "b",
}  # fmt: skip
# Unsupported contents; the first match names the kind of file.
_REFUSED = (
  (
    r"(query|key)_norm\.scale$",
    "FLUX Control (Black Forest Labs): norms and biases for a second picture",
  ),
  (r"dora_scale|lora_magnitude_vector", "DoRA: magnitudes beside its matrices"),
  (r"\bhada_", "LoHa (LyCORIS)"),
  (r"\blokr_", "LoKr (LyCORIS)"),
  (r"\b(oft|boft)_", "OFT"),
  (r"\blora_mid\b", "LoCon: a third matrix in the middle"),
  (r"lora_embedding_", "adapters of embeddings"),
  (
    r"^(base_model\.model\.)?(text_model|text_encoder|text_encoders|clip_|lora_te"
    r"|te\d?[._])",
    "adapters of text encoders, which are not read here",
  ),
  (r"lora_(A|B|up|down)(\.\w+)?\.bias$", "biases beside its matrices"),
  (r"\.(diff|diff_b|w_norm|b_norm)$", "differences of whole weights"),
)
_CHECKPOINT = "config.init.checkpoint"


@dataclasses.dataclass(frozen=True)
class _Pair:
  """The matrices of one layer of the file.

  Attributes:
    name: of the layer, as in the file.
    a: [rank, in], or of a convolution [rank, in, *window].
    b: [out, rank].
    scale: of their product.
  """

  name: str
  a: np.ndarray
  b: np.ndarray
  scale: float


def read(
  spec: os.PathLike[str] | str, rules: convert.Rules, like: Params, kind: str
) -> Params:
  """The adapters of a public file as a parameter tree.

  All layers are padded with zeros to the largest rank; scales are multiplied
  into the second matrices, so that alpha is the rank: the same function.

  Args:
    spec: see `hub.resolve`; a folder means the adapter in it.
    rules: the architecture's table.
    like: the parameters of the table, or their shapes.
    kind: the class of the network in diffusers.

  Returns:
    Like the second tree of `lora.split`, for the adapted layers; float32.

  Raises:
    UserError: the file is not such an adapter of this network.
  """
  return _tree(_layers(spec, rules, like, kind), rules, spec)


def added(
  spec: os.PathLike[str] | str, rules: convert.Rules, params: Params, kind: str
) -> Params:
  """Parameters with a public adapter added, also to layers that are fused here.

  Args:
    spec: see `read`.
    rules: the architecture's table.
    params: its parameters.
    kind: the name of the network.

  Raises:
    UserError: the file is not such an adapter of this network.
  """
  pairs = {
    f"{name}.weight": pair
    for name, pair in _layers(spec, rules, params, kind).items()
  }

  def changed(name: str, value: np.ndarray) -> np.ndarray:
    pair = pairs[name]
    change = pair.b @ pair.a.reshape(len(pair.a), -1)
    return value + change.reshape(value.shape)

  return convert.replaced(params, rules, pairs, changed)


def _layers(
  spec: os.PathLike[str] | str, rules: convert.Rules, like: Params, kind: str
) -> dict[str, _Pair]:
  """The adapted layers by their public names."""
  shapes = {
    name.removesuffix(".weight"): shape
    for name, shape in convert.public_shapes(like, rules).items()
    if name.endswith(".weight") and len(shape) > 1
  }
  path = file_of(hub.resolve(spec))
  tensors = hub.open_weights(path)
  _require_lora(spec, tensors, shapes)
  alias = lora_names.aliases(kind, shapes)
  layers: dict[str, _Pair] = {}
  for pair in _pairs(path, spec, tensors):
    for name, part in _public(pair, alias, shapes, spec, kind):
      if name in layers:
        raise UserError(
          f"{spec}: {shown(pair.name)} and {shown(layers[name].name)} are the"
          f" same layer, {name}"
        )
      layers[name] = part
  return layers


def file_of(path: pathlib.Path) -> pathlib.Path:
  """The adapter in a folder: PEFT's, diffusers', or the only one."""
  if not path.is_dir():
    return path
  if (path / lora_files.PEFT_CONFIG).exists():
    pickle = path / "adapter_model.bin"
    file = path / lora_files.PEFT_FILE
    return pickle if pickle.exists() and not file.exists() else file
  file_path = path / lora_files.DIFFUSERS_FILE
  return file_path if file_path.exists() else path


def _require_lora(
  spec: os.PathLike[str] | str,
  tensors: Mapping[str, hub.Stored],
  shapes: Mapping[str, Any],
) -> None:
  """Refuses a file with anything but pairs of matrices."""
  for pattern, reason in _REFUSED:
    names = [name for name in tensors if re.search(pattern, name)]
    if names:
      raise UserError(
        f"{spec} is {reason} ({len(names)} of {len(tensors)} tensors, such as"
        f" {shown(names[0])}); take a file of plain LoRA for the network alone"
      )
  odd = [n for n in tensors if not _END.search(n) and not n.endswith(".alpha")]
  if not odd and tensors:
    return
  bare = [n.removesuffix(".weight").removesuffix(".bias") for n in odd]
  if any(lora_names.stripped(n) in shapes for n in bare) and len(odd) == len(
    tensors
  ):
    raise UserError(
      f"{spec} holds whole weights, not an adapter; name it in {_CHECKPOINT}"
    )
  reason = f"{shown(odd[0])} is no matrix of LoRA" if odd else "it is empty"
  raise UserError(f"{spec} is not an adapter: {reason}")


def _pairs(
  path: pathlib.Path,
  spec: os.PathLike[str] | str,
  tensors: Mapping[str, hub.Stored],
) -> Iterator[_Pair]:
  """Every adapted layer of a file, its values read."""
  modules: dict[str, dict[str, hub.Stored]] = {}
  for name, tensor in tensors.items():
    match = _END.search(name)
    module = name[: match.start()] if match else name.removesuffix(".alpha")
    end = _ENDS[match["end"].replace("lora.", "lora_")] if match else "alpha"
    if end in modules.setdefault(module, {}):
      raise UserError(f"{spec} has two adapters of {shown(module)}")
    modules[module][end] = tensor
  scale_of = lora_scales.scales(path, spec)
  if scale_of and any("alpha" in its for its in modules.values()):
    raise UserError(
      f"{spec} has its scale twice: tensors .alpha, and a config; remove one"
    )
  for module, its in modules.items():
    yield _pair(module, its, scale_of, spec)


def _pair(
  module: str,
  its: Mapping[str, hub.Stored],
  scale_of: Callable[[str, int], float] | None,
  spec: os.PathLike[str] | str,
) -> _Pair:
  where = f"{spec}: {shown(module)}"
  lacking = {"a": "lora_A (down)", "b": "lora_B (up)"}
  for end, label in lacking.items():
    if end not in its:
      raise UserError(f"{where} lacks its {label}; is the file complete?")
  a, b = its["a"].shape, its["b"].shape
  if len(a) < 2 or len(b) != len(a) or not a[0]:
    raise UserError(f"{where} is {list(a)} and {list(b)}; rank 1 or more?")
  if b[1] != a[0] or set(b[2:]) - {1}:
    raise UserError(
      f"{where} is {list(a)} and {list(b)}, whose ranks are not the same"
    )
  rank, scale = a[0], 1.0
  if "alpha" in its:
    scale = _alpha(its["alpha"], where) / rank
  elif scale_of:
    scale = scale_of(lora_names.stripped(module), rank)
  matrices = [_finite(its[end], where) for end in ("a", "b")]
  return _Pair(module, matrices[0], matrices[1].reshape(b[:2]), scale)


def _finite(tensor: hub.Stored, where: str) -> np.ndarray:
  x = tensor.read().astype(np.float32)
  if not np.isfinite(x).all():
    raise UserError(f"{where} is not finite: it holds NaN or infinity")
  return x


def _alpha(tensor: hub.Stored, where: str) -> float:
  x = tensor.read().astype(np.float64).reshape(-1)
  if len(x) != 1 or not math.isfinite(x[0]) or x[0] <= 0:
    raise UserError(
      f"{where}.alpha is {shown(x[:3].tolist())}; expected one number above 0"
    )
  return float(x[0])


def _public(
  pair: _Pair,
  alias: Mapping[str, lora_names.Alias],
  shapes: Mapping[str, tuple[int, ...]],
  spec: os.PathLike[str] | str,
  kind: str,
) -> Iterator[tuple[str, _Pair]]:
  """(diffusers layer, its part) for a layer of the file."""
  flat_name = lora_names.flat(lora_names.stripped(pair.name))
  entry = alias.get(flat_name)
  if entry is None:
    raise UserError(f"{spec}: {_stranger(pair.name, alias, kind)}")
  outs = [shapes[name][0] for name in entry.layers]
  ins = shapes[entry.layers[0]][1:]
  if pair.a.shape[1:] != ins or len(pair.b) != sum(outs):
    mismatch = (
      f"{shown(pair.name)} takes {list(pair.a.shape[1:])} to {len(pair.b)}"
    )
    raise UserError(
      f"{spec} is of another size: {mismatch}, and here {list(ins)} to {sum(outs)}"
      f"{_wider(flat_name, pair.a.shape[1:], ins)}"
    )
  b = pair.b * np.float32(pair.scale)
  if entry.swapped:
    b = np.concatenate(np.split(b, 2)[::-1])
  parts = np.split(b, np.cumsum(outs)[:-1])
  for name, part in zip(entry.layers, parts, strict=True):
    yield name, dataclasses.replace(pair, b=part, scale=1.0)


def _wider(
  flat_name: str, in_shape: tuple[int, ...], ins: tuple[int, ...]
) -> str:
  """A hint for input layers that also read an image."""
  is_first = flat_name in ("img_in", "x_embedder", "patch_embedding")
  return (
    "; it reads another picture (Control, Fill)"
    if is_first and in_shape > ins
    else ""
  )


def _stranger(
  name: str, alias: Mapping[str, lora_names.Alias], kind: str
) -> str:
  network = lora_names.other_network(lora_names.stripped(name), kind)
  if network:
    return f"{shown(name)} is a layer of {network}, not of {kind}"
  public = sorted({layer for its in alias.values() for layer in its.layers})
  hint = nearest(lora_names.stripped(name), public)
  return f"{shown(name, 90)} is no layer of this {kind}{hint}"


def _tree(
  layers: Mapping[str, _Pair],
  rules: convert.Rules,
  spec: os.PathLike[str] | str,
) -> Params:
  """The parameter tree, with one rank for all layers."""
  rank = max((len(pair.a) for pair in layers.values()), default=0)
  remaining = dict(layers)
  tree: dict[str, Any] = {}
  for rule in rules:
    names = [
      name.removesuffix(".weight") for row in rule.names() for name in row
    ]
    if not rule.ours.endswith("/kernel") or not set(names) & set(remaining):
      continue
    if len(names) != len(rule.names()):
      raise UserError(f"{spec}: {names[0]} is part of a fused layer here")
    pairs = [remaining.pop(name, None) for name in names]
    like = next(pair for pair in pairs if pair is not None)
    rows = [_ours(pair or _nothing(like), rank, rule.form) for pair in pairs]
    adapter = {
      end: np.stack([row[end] for row in rows]) if rule.layers else rows[0][end]
      for end in ("a", "b")
    }
    *parents, _ = rule.ours.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[lora.NAME] = adapter
  if remaining:
    raise UserError(f"{spec}: {next(iter(remaining))} is not a product")
  return tree


def _nothing(like: _Pair) -> _Pair:
  return dataclasses.replace(
    like, a=np.zeros_like(like.a[:0]), b=np.zeros_like(like.b[:, :0])
  )


def _ours(pair: _Pair, rank: int, form: convert.Form) -> dict[str, np.ndarray]:
  """{"a" [in, rank], "b" [rank, out]} of one layer, padded with zeros."""
  missing = rank - len(pair.a)
  grow = [(0, missing), *[(0, 0)] * (pair.a.ndim - 1)]
  a = form.to_ours(np.pad(pair.a, grow))
  return {"a": a, "b": np.pad(pair.b.T, ((0, missing), (0, 0)))}
