"""PyTorch's own weight files, read without PyTorch and without running code.

`torch.save` writes pickles, which can run any code when they are read. Here they
go through an unpickler that knows tensors, containers and plain numbers, and
refuses every other name. Both formats are read: archives (PyTorch 1.6 and later)
and the older sequence of pickles.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxreward.errors import UserError, one_line
from jaxreward.files import require_finite
from jaxreward.models.hub import Stored

# Where files hold the tensors, unless they are at the top.
_INSIDE = ("state_dict", "model", "module", "params_ema", "params")
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
  "DoubleStorage": ("F64", np.dtype("<f8")),
  "FloatStorage": ("F32", np.dtype("<f4")),
  "HalfStorage": ("F16", np.dtype("<f2")),
  "BFloat16Storage": ("BF16", np.dtype(ml_dtypes.bfloat16)),
  "LongStorage": ("I64", np.dtype("<i8")),
  "IntStorage": ("I32", np.dtype("<i4")),
  "ShortStorage": ("I16", np.dtype("<i2")),
  "CharStorage": ("I8", np.dtype("i1")),
  "ByteStorage": ("U8", np.dtype("u1")),
  "BoolStorage": ("BOOL", np.dtype("?")),
}


@dataclasses.dataclass(frozen=True)
class _Storage:
  key: str
  kind: str
  count: int  # of numbers


@dataclasses.dataclass(frozen=True)
class _Tensor:
  storage: _Storage
  start: int  # numbers before the first
  shape: tuple[int, ...]
  stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TorchTensor(Stored):
  """One tensor of a PyTorch file, read lazily.

  Attributes:
    offset: bytes in the file before its first number.
    stride: numbers between neighbours along each axis.
    kind: of the numbers.
  """

  offset: int
  stride: tuple[int, ...]
  kind: np.dtype

  def read(self) -> np.ndarray:
    """The values.

    Raises:
      UserError: the file is cut short, or a value is not finite.
    """
    reach = _reach(self.shape, self.stride)
    try:
      flat = np.fromfile(self.file, self.kind, reach, offset=self.offset)
    except OSError as error:
      raise UserError(f"cannot read {self.file}: {one_line(error)}") from error
    if flat.size < reach:
      raise UserError(
        f"cannot read {self.file}: {self.name} is cut short; is the download"
        " complete?"
      )
    strides = [self.kind.itemsize * step for step in self.stride]
    value = np.array(np.lib.stride_tricks.as_strided(flat, self.shape, strides))
    require_finite(self.file, self.name, value)
    return value


def _reach(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
  """Numbers from the first to the last of a tensor."""
  if 0 in shape:
    return 0
  return 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


def _tensor(storage, start, shape, stride, *_) -> _Tensor:
  return _Tensor(storage, int(start), tuple(shape), tuple(stride))


class _Unpickler(pickle.Unpickler):
  """Describes tensors; any name that tensors do not need is an error.

  Attributes:
    kinds: key of every storage read so far -> kind of its numbers.
  """

  def __init__(self, file: Any):
    super().__init__(file)
    self.kinds: dict[str, str] = {}

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return lambda tensor, *_: tensor
    if module == "torch" and name in _STORAGES:
      return name
    if (module, name) == ("torch", "Size"):
      return tuple
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    raise pickle.UnpicklingError(
      f"it holds {module}.{name}, which is no tensor, and reading it could run"
      " code; save its state_dict alone, or take the .safetensors file"
    )

  def persistent_load(self, pid: Any) -> _Storage:
    _, kind, key, _, count, *_ = pid
    self.kinds[str(key)] = kind
    return _Storage(str(key), kind, int(count))


def open_weights(path: pathlib.Path) -> dict[str, Stored]:
  """Every tensor of a state dict by its name, unread.

  Args:
    path: a file of `torch.save`, of the state dict or of a dict that holds it
      as "state_dict", "model", "module", "params_ema" or "params".

  Raises:
    UserError: unreadable, no state dict, or anything but tensors in it.
  """
  try:
    is_archive = zipfile.is_zipfile(path)
    content, offset_of = (_archive if is_archive else _sequence)(path)
    tensors = _state(content)
    return {n: _stored(path, n, t, offset_of) for n, t in tensors.items()}
  except FileNotFoundError:
    raise UserError(f"{path}: no such file") from None
  except Exception as error:  # of the disk, or whatever a broken pickle raises
    raise UserError(f"cannot read {path}: {one_line(error)}") from error


Offset = Callable[[_Storage], int]


def _archive(path: pathlib.Path) -> tuple[Any, Offset]:
  with zipfile.ZipFile(path) as archive:
    (record,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
    root = record.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
      raise pickle.UnpicklingError("its numbers are big-endian")
    with archive.open(record) as file:
      content = _Unpickler(file).load()
    entries = {entry.filename: entry for entry in archive.infolist()}

  def offset_of(storage: _Storage) -> int:
    entry = entries[f"{root}data/{storage.key}"]
    size = storage.count * _STORAGES[storage.kind][1].itemsize
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < size:
      raise pickle.UnpicklingError(f"{entry.filename} is not {size} bytes")
    with path.open("rb") as file:  # the local header may be longer than listed
      file.seek(entry.header_offset + 26)
      name, extra = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + name + extra

  return content, offset_of


def _sequence(path: pathlib.Path) -> tuple[Any, Offset]:
  with path.open("rb") as file:
    plain = lambda: _Unpickler(file).load()
    if plain() != _MAGIC:
      raise pickle.UnpicklingError("it is no file of torch.save")
    plain(), plain()  # protocol, sizes of types
    reader = _Unpickler(file)
    content = reader.load()
    offsets = _places(file, plain(), reader.kinds)
  return content, lambda storage: offsets[storage.key]


def _places(file: Any, keys: Any, kinds: Mapping[str, str]) -> dict[str, int]:
  """Where the numbers of each storage begin; the file follows their keys."""
  offsets = {}
  for key in map(str, keys):
    (count,) = struct.unpack("<q", file.read(8))
    offsets[key] = file.tell()
    file.seek(count * _STORAGES[kinds[key]][1].itemsize, 1)
  return offsets


def _state(content: Any) -> dict[str, _Tensor]:
  """The tensors of a state dict, which may lie inside a training checkpoint."""
  if not isinstance(content, Mapping):
    raise pickle.UnpicklingError("it holds no state dict")
  inner = [k for k in _INSIDE if isinstance(content.get(k), Mapping)]
  for tensors in (content, *(content[key] for key in inner)):
    named = {n: t for n, t in tensors.items() if isinstance(t, _Tensor)}
    if named:
      return named
  raise pickle.UnpicklingError(
    "it holds no state dict, at the top or as " + ", ".join(_INSIDE)
  )


def _stored(
  path: pathlib.Path, name: str, tensor: _Tensor, offset_of: Offset
) -> TorchTensor:
  dtype, kind = _STORAGES[tensor.storage.kind]
  reach = tensor.start + _reach(tensor.shape, tensor.stride)
  if min(tensor.stride, default=0) < 0 or not (
    0 <= tensor.start and reach <= tensor.storage.count
  ):
    raise pickle.UnpicklingError(f"{name} reaches beyond its storage")
  offset = offset_of(tensor.storage) + tensor.start * kind.itemsize
  return TorchTensor(
    path, name, dtype, tensor.shape, offset, tensor.stride, kind
  )
