"""dlib's face network (ResNet-29), from the weights that face-api ships.

King 2017, http://dlib.net/face_recognition.py.html, CC0; @vladmandic/face-api
1.7.15 on npm (MIT) has it in eight bits with a scale and a minimum per tensor.
Faces of one person are at a distance below 0.6.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError, one_line
from jaxreward.types import Array, ArrayLike, Params

SIDE, FEATURES = 150, 128
FILE = "face_recognition_model.bin"
MANIFEST = "face_recognition_model-weights_manifest.json"
_MEAN = (122.782, 117.001, 104.298)  # of 255
# Blocks, their width, and whether they halve the image.
BLOCKS = (
  *((f"conv32_{i}", 32, False) for i in (1, 2, 3)),
  ("conv64_down", 64, True),
  *((f"conv64_{i}", 64, False) for i in (1, 2, 3)),
  ("conv128_down", 128, True),
  *((f"conv128_{i}", 128, False) for i in (1, 2)),
  ("conv256_down", 256, True),
  *((f"conv256_{i}", 256, False) for i in (1, 2)),
  ("conv256_down_out", 256, True),
)

# A few millions of numbers: replicated.
SHARDING_RULES = ((r"", ()),)


class Conv(nn.Module):
  """Convolution, then a scale and a shift per channel."""

  width: int
  kernel: int
  stride: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Conv(
      self.width, (self.kernel,) * 2, (self.stride,) * 2, self.padding,
      name="conv",
    )(x)  # fmt: skip
    weights = self.param("weights", nn.initializers.ones, (self.width,))
    return x * weights + self.param(
      "biases", nn.initializers.zeros, (self.width,)
    )


class Block(nn.Module):
  """Two convolutions around a residual; one that halves pads with zeros."""

  width: int
  halves: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    first = (2, "VALID") if self.halves else (1, "SAME")
    h = nn.relu(Conv(self.width, 3, *first, name="conv1")(x))
    h = Conv(self.width, 3, 1, "SAME", name="conv2")(h)
    if not self.halves:
      return nn.relu(h + x)
    x = nn.avg_pool(x, (2, 2), (2, 2))
    down, across = (
      a - b for a, b in zip(x.shape[1:3], h.shape[1:3], strict=True)
    )
    h = jnp.pad(h, ((0, 0), (0, down), (0, across), (0, 0)))
    more = self.width - x.shape[-1]
    return nn.relu(h + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more))))


class DlibFace(nn.Module):
  """Faces [B, 150, 150, 3] in [-1, 1] -> descriptors [B, 128]."""

  @nn.compact
  def __call__(self, x: Float[ArrayLike, "B H W 3"]) -> Float[Array, "B E"]:
    x = (jnp.asarray(x) + 1) / 2 - jnp.asarray(_MEAN) / 255
    x = nn.relu(Conv(32, 7, 2, "VALID", name="conv32_down")(x))
    x = nn.max_pool(x, (3, 3), (2, 2))
    for name, width, halves in BLOCKS:
      x = Block(width, halves, name=name)(x)
    return nn.Dense(FEATURES, use_bias=False, name="fc")(x.mean((1, 2)))


def shapes() -> Params:
  """The parameters as `jax.ShapeDtypeStruct`."""
  image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
  return jax.eval_shape(DlibFace().init, jax.random.key(0), image)["params"]


def read_manifest(path: os.PathLike[str] | str) -> dict[str, np.ndarray]:
  """The tensors of a manifest of TensorFlow.js, by name.

  Eight-bit ones are scale * value + minimum. The manifest names the data file,
  which lies beside it.

  Raises:
    UserError: unreadable, or of another size than it says.
  """
  path = pathlib.Path(path)
  try:
    groups: Any = json.loads(path.read_text())
    tensors: dict[str, np.ndarray] = {}
    for group in groups:
      data = b"".join((path.parent / n).read_bytes() for n in group["paths"])
      at = 0
      for entry in group["weights"]:
        scale = entry.get("quantization")
        kind = np.dtype(scale["dtype"] if scale else entry["dtype"])
        count = int(np.prod(entry["shape"]))
        x = np.frombuffer(data, kind.newbyteorder("<"), count, at)
        at += count * kind.itemsize
        if scale:
          x = x * float(scale["scale"]) + float(scale["min"])
        tensors[entry["name"]] = x.reshape(entry["shape"]).astype(np.float32)
      if at != len(data):
        raise ValueError(f"{len(data) - at} bytes too many")
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"cannot read {path}: {one_line(error)}; both files are in"
      " @vladmandic/face-api 1.7.15 (npm), folder model"
    ) from error
  return tensors


def is_dlib(weights: os.PathLike[str] | str) -> bool:
  """Whether weights are named as face-api's."""
  return str(weights).endswith((FILE, MANIFEST))


def load(weights: os.PathLike[str] | str) -> Params:
  """Parameters from face-api's file or its manifest, which lie side by side.

  Raises:
    UserError: see `read_manifest`; or tensors of another network.
  """
  tensors = read_manifest(pathlib.Path(weights).parent / MANIFEST)
  ends = {"kernel": "conv/filters", "bias": "conv/bias",
          "weights": "scale/weights", "biases": "scale/biases"}  # fmt: skip

  def fill(key_path, leaf):
    *at, end = [key.key for key in key_path]
    at = [name for name in at if name != "conv"]
    name = "fc" if at == ["fc"] else "/".join([*at, ends[end]])
    if name not in tensors or tensors[name].shape != leaf.shape:
      raise UserError(
        f"{weights}: {name} of shape {list(leaf.shape)} is not among its tensors"
      )
    return tensors[name]

  return jax.tree_util.tree_map_with_path(fill, shapes())
