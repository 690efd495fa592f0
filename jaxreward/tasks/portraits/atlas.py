"""The atlas: every layer of a portrait, drawn once and shipped."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile

import numpy as np
from etils import epath

from jaxreward import files
from jaxreward.errors import UserError
from jaxreward.tasks.portraits import attributes as at

PATH = epath.Path(__file__).parents[2] / "assets" / "portraits.npz"
VARIANTS = sum(layer.size for layer in at.LAYERS)
SHAPE = (VARIANTS, at.SIDE, at.SIDE, 4)
FIRST = tuple(
  sum(layer.size for layer in at.LAYERS[:i]) for i in range(len(at.LAYERS))
)


def digest(layers: np.ndarray) -> str:
  """A hash of the pixels, independent of the file's compression."""
  return hashlib.sha256(np.ascontiguousarray(layers).tobytes()).hexdigest()[:16]


def save(path: epath.Path, layers: np.ndarray) -> None:
  """Writes the layers, uint8 [V, S, S, 4], with their hash."""
  files.save_arrays(path, layers=layers, digest=digest(layers))


def read(path: epath.Path) -> np.ndarray:
  """The layers of a file, uint8 [V, S, S, 4].

  Raises:
    UserError: no such file, or not the atlas of this version.
  """
  fix = (
    "reinstall jaxreward, or draw it again: python -c"
    ' "from jaxreward.tasks.portraits import draw; draw.write()"'
  )
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      layers, name = file["layers"], str(file["digest"])
  except (
    OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile
  ) as error:  # fmt: skip
    raise UserError(
      f"{path}: the layers of the portraits cannot be read"
      f" ({type(error).__name__}); {fix}"
    ) from error
  if layers.shape != SHAPE or layers.dtype != np.uint8:
    raise UserError(
      f"{path}: {layers.dtype} {layers.shape} where the layers of the portraits"
      f" are uint8 {SHAPE}; {fix}"
    )
  if digest(layers) != name:
    raise UserError(f"{path}: the layers of the portraits are damaged; {fix}")
  return layers


@functools.cache
def premultiplied() -> np.ndarray:
  """float32 [V, S, S, 4] in [0, 1], colours multiplied by alpha; read-only."""
  layers = read(PATH).astype(np.float32) / 255
  layers[..., :3] *= layers[..., 3:]
  layers.flags.writeable = False
  return layers
