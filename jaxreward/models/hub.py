"""Public weights on disk or on the Hugging Face hub, read without PyTorch.

Weights are a `.safetensors` file, a `.safetensors.index.json` with its shards,
a file of `torch.save`, or a folder that holds one of them. If a folder has
variants, such as `model.fp16.safetensors` beside `model.safetensors`, the file
without a variant is read; if it has several of those, such as
`open_clip_model.safetensors` too, the one called `model`, as in transformers.
To read another, name the file, on the hub as
"org/name:open_clip_model.safetensors"; its configs and tokenizer are downloaded
too. Tensors are listed first and read on demand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  (adds bfloat16 to NumPy, hence safetensors)
import numpy as np
import safetensors

from jaxreward import paths, reading
from jaxreward.errors import UserError, one_line, shown
from jaxreward.files import FLOATS, require_finite, require_plain

_SUFFIX = ".safetensors"
# Files downloaded from a repository: weights, configs, tokenizers.
_BESIDE = (".json", "merges.txt", "vocab.txt", ".model")
_READ = (_SUFFIX, *_BESIDE)
_INDEX = re.compile(r".*\.safetensors(\.[\w-]+)?\.index(\.[\w-]+)?\.json")
_TORCH = (".bin", ".pt", ".pth")  # read as in `torch_files`
_PICKLES = (".ckpt", ".pkl", ".pickle")
_KINDS = {
  int: "a whole number above 0", float: "a number above 0", dict: "an object",
}  # fmt: skip
_LARGEST = 10**300  # excludes NaN and infinities
_SHOWN = 60  # characters of a value in an error
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclasses.dataclass(frozen=True)
class Stored:
  """One tensor of a file, read lazily.

  Attributes:
    file: path of the file.
    name: its name there.
    dtype: as safetensors spells it, such as "BF16".
    shape: its shape.
  """

  file: pathlib.Path
  name: str
  dtype: str
  shape: tuple[int, ...]

  @property
  def is_float(self) -> bool:
    return self.dtype in FLOATS

  def read(self) -> np.ndarray:
    """The values.

    Raises:
      UserError: a type that is not a plain number, such as a quantised one, or
        a value that is not finite.
    """
    require_plain(self.file, self.name, self.dtype)
    try:
      with safetensors.safe_open(self.file, "numpy") as file:
        value = file.get_tensor(self.name)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
      raise UserError(f"cannot read {self.file}: {one_line(error)}") from error
    require_finite(self.file, self.name, value)
    return value


def resolve(spec: os.PathLike[str] | str) -> pathlib.Path:
  """The local file or folder that `spec` names, downloaded if need be.

  Args:
    spec: a path, or "org/name" of the Hugging Face hub; either may end in
      ":subfolder" or ":file", such as "org/name:transformer".

  Raises:
    UserError: no such path, no network, or the extra `hub` is not installed;
      the error says what to download.
  """
  source, spec = spec, paths.expand(spec)
  if paths.is_there(spec):
    return pathlib.Path(spec)
  place, _, inside = spec.partition(":")
  if place and paths.is_there(place):
    path = pathlib.Path(place) / inside
    if not paths.is_there(path):
      raise UserError(f"{shown(place, 100)} has no {shown(inside)}")
    return path
  if not _HUB_ID.fullmatch(place):
    raise UserError(
      f"{shown(source, 100)}: no such file or folder{paths.hint(spec)}, and no"
      " hub id (org/name)"
    )
  return _download(place, inside) / inside


def _download(repository: str, inside: str) -> pathlib.Path:
  """The folder of a snapshot with the requested safetensors and configs.

  For a file, its neighbours are downloaded too, except other weights; for an
  index, all weights of its folder.
  """
  is_file = inside.endswith((_SUFFIX, *_TORCH))
  is_index = _INDEX.fullmatch(inside) is not None
  folder = inside.rpartition("/")[0] if is_file or is_index else inside
  at = f"{folder}/" if folder else ""
  patterns = [f"{at}*{end}" for end in (_BESIDE if is_file else _READ)]
  by_hand = (
    f"download {', '.join(f'*{end}' for end in _READ)} of"
    f" https://huggingface.co/{repository}/tree/main/{folder} into a folder and"
    f" name that folder{' or file' if is_file or is_index else ''}"
  )
  try:
    import huggingface_hub
  except ImportError as error:
    raise UserError(
      f'{repository} is not a local folder; pip install "jaxreward[hub]" to'
      f" fetch it from the hub, or {by_hand}"
    ) from error
  which = {
    "allow_patterns": [inside, *patterns] if is_file else patterns,
    "ignore_patterns": f"{at}*/*",
  }
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(repository, **which))
  except Exception as error:  # of the hub client, its HTTP client or the disk
    raise UserError(
      f"{repository} could not be fetched ({one_line(error)}); {by_hand}"
    ) from error


def open_weights(spec: os.PathLike[str] | str) -> dict[str, Stored]:
  """Every tensor of a public checkpoint by its public name, unread.

  Args:
    spec: see `resolve`; or "package:NAME", see `packaged`.

  Raises:
    UserError: no weights there, pickles, missing shards, a truncated or
      foreign file; each by name.
  """
  if str(spec).startswith("package:"):
    from jaxreward.models import packages  # imports this module

    return packages.open_weights(str(spec))
  path = resolve(spec)
  path = _choose(path) if path.is_dir() else path
  if _INDEX.fullmatch(path.name):
    return _sharded(path)
  if path.suffix in _TORCH:
    from jaxreward.models import torch_files  # imports this module

    return torch_files.open_weights(path)
  if path.suffix != _SUFFIX:
    raise UserError(_refusal(path))
  return _listed(path)


def read_config(
  spec: os.PathLike[str] | str, name: str = "config.json"
) -> dict[str, Any]:
  """The JSON record `name` beside the weights; empty if there is none."""
  path = resolve(spec)
  path = (path if path.is_dir() else path.parent) / name
  return _json(path) if path.exists() else {}


@contextlib.contextmanager
def beside(spec: os.PathLike[str] | str) -> Iterator[None]:
  """Adds the path of the weights to errors about a record beside them."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{spec}: {error}") from error


def misfit(of: str, name: str, value: Any, expected: str) -> UserError:
  """The error for a field of a record: file, field, value and expected
  value."""
  text = shown(json.dumps(value), _SHOWN)
  return UserError(f"{of}: {name}={text}; expected {expected}")


def field(
  record: Mapping[str, Any],
  name: str,
  kind: type,
  *,
  of: str,
  default: Any = None,
) -> Any:
  """`record[name]`, checked to be of the kind that public libraries expect.

  Args:
    record: a part of a JSON file.
    name: of the field.
    kind: int for counts of 1 or more, float for numbers above 0, dict for
      objects.
    of: file and part, such as "config.json: text_config", for the error.
    default: value of an absent or null field; None if the field is required.

  Raises:
    UserError: missing, or of another kind.
  """
  value = record.get(name)
  value = default if value is None else value
  types = (int, float) if kind is float else kind
  is_valid = isinstance(value, types) and not isinstance(value, bool)
  if not is_valid or (kind is not dict and not 0 < value < _LARGEST):
    raise misfit(of, name, value, _KINDS[kind])
  return value


def shape_of(
  tensors: Mapping[str, Stored], name: str, rank: int, *, of: str
) -> tuple[int, ...]:
  """The shape of a tensor that identifies an architecture.

  Args:
    tensors: from `open_weights`.
    name: its public name.
    rank: how many axes it has in that architecture.
    of: checkpoint and architecture, such as "a.safetensors: no IResNet", for
      the error.

  Raises:
    UserError: it is missing, or of another rank.
  """
  if name not in tensors:
    raise UserError(f"{of}: it lacks {name}")
  shape = tensors[name].shape
  if len(shape) != rank:
    raise UserError(f"{of}: {name} has {len(shape)} axes, not {rank}")
  return shape


def count_layers(tensors: Mapping[str, Stored], name: str) -> int:
  """The number of consecutive names name.format(0), name.format(1), ..."""
  return next(i for i in itertools.count() if name.format(i) not in tensors)


def _choose(folder: pathlib.Path) -> pathlib.Path:
  """The one index, or the one safetensors file, of a folder.

  Prefers files without a variant in their name, then those called "model".
  """
  try:
    names = sorted(p.name for p in folder.iterdir())
  except OSError as error:
    raise UserError(f"{folder}: {paths.reason_of(error)}") from error
  if "adapter_config.json" in names:
    raise UserError(
      f"{folder} holds adapters (adapter_config.json), not whole weights; a"
      " policy takes them as config.init.adapter"
    )
  every = [n for n in names if n.endswith(_SUFFIX)]
  indices = [n for n in names if _INDEX.fullmatch(n)]
  plain = [n for n in every if "." not in n.removesuffix(_SUFFIX)]
  plain_indices = [
    n for n in indices if n.count(".") == 3
  ]  # NAME.safetensors.index.json
  files = plain_indices or plain or indices or every
  for matches in (files, [n for n in files if n.startswith("model.")]):
    if len(matches) == 1:
      return folder / matches[0]
  if files:
    raise UserError(
      f"{folder} holds several checkpoints, name one of them: "
      + ", ".join(f"{folder / n}" for n in files)
    )
  of_torch = [n for n in names if n.endswith(_TORCH)]
  if len(of_torch) == 1:
    return folder / of_torch[0]
  if of_torch:
    raise UserError(
      f"{folder} holds several files of PyTorch and no *{_SUFFIX}, name one of"
      f" them: {', '.join(of_torch)}"
    )
  pickles = [n for n in names if n.endswith(_PICKLES)]
  if pickles:
    raise UserError(_refusal(folder / pickles[0]))
  below = sorted({p.parent.name for p in folder.glob(f"*/*{_SUFFIX}")})
  hint = f"; its sub-folders {', '.join(below)} do" if below else ""
  raise UserError(f"{folder} holds no *{_SUFFIX}{hint}")


def _refusal(path: pathlib.Path) -> str:
  if path.name.endswith(_PICKLES):
    return (
      f"{path} is a pickle, which can run any code when it is read, and is"
      f" refused; use the {_SUFFIX} file of the same weights"
    )
  return f"{path} is not a {_SUFFIX} file or a folder with one"


def _sharded(index: pathlib.Path) -> dict[str, Stored]:
  places = _json(index).get("weight_map")
  if not isinstance(places, dict):
    raise misfit(f"{index}", "weight_map", places, "an object of file names")
  for name, shard in places.items():
    if not isinstance(shard, str):
      raise misfit(f"{index}", f"weight_map.{name}", shard, "a file name")
  shards = sorted(set(places.values()))
  absent = [name for name in shards if not (index.parent / name).exists()]
  if absent:
    raise UserError(
      f"{index.parent} lacks {len(absent)} of {len(shards)} shards:"
      f" {', '.join(absent)}"
    )
  tensors = {name: _listed(index.parent / name) for name in shards}
  absent_names = [
    name for name, shard in places.items() if name not in tensors[shard]
  ]
  if absent_names:
    raise UserError(
      f"{index.parent / places[absent_names[0]]} does not hold {absent_names[0]}, which"
      f" {index.name} says it does"
    )
  return {name: tensors[shard][name] for name, shard in places.items()}


def _listed(path: pathlib.Path) -> dict[str, Stored]:
  try:
    with safetensors.safe_open(path, "numpy") as file:
      views = {name: file.get_slice(name) for name in file.keys()}
      return {
        name: Stored(path, name, view.get_dtype(), tuple(view.get_shape()))
        for name, view in views.items()
      }
  except FileNotFoundError:
    raise UserError(f"{path}: no such file") from None
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise UserError(
      f"cannot read {path}: {_kind_of(path) or one_line(error)}; is the download"
      " complete?"
    ) from error


def _kind_of(path: pathlib.Path) -> str:
  """The real kind of a file that is named like weights, if recognized."""
  try:
    with path.open("rb") as file:
      head = file.read(64).lstrip().lower()
  except OSError:
    return ""
  if head.startswith(b"version https://git-lfs"):
    return "it is a pointer of Git LFS, and the file comes with git lfs pull"
  return "it is a web page" if head.startswith((b"<!doctype", b"<html")) else ""


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return reading.record(path, foreign=True)
  except UserError as error:
    raise UserError(f"cannot read {error}") from error
